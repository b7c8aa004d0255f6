"""The bundle that every import makes: one file of weights as encoder, and heads that name the encoder's outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.bundle import folder as folder_
from common.bundle.folder import Bundle
from common.bundle.manifest import Origin, Part, Preprocess
from common.crops import Crop
from common.errors import UsageError
from common.tasks import TASKS

COLUMNS = {task.columns([output])[0]: (task.name, output) for task in TASKS.values() for output in task.known}
"""Every column of `scores` that a model can fill: its task and the name of the output there."""


@dataclass(frozen=True)
class Published:
    """A bundle to be written. `columns`: for each feature of the encoder its column of `scores`, or None.

    The bundle's id depends on these fields alone, so the same weights have the same id in every version of mien.
    """

    name: str
    encoder: Part
    weights: bytes
    preprocess: Preprocess
    crop: Crop
    columns: Sequence[str | None]
    origin: Origin
    licence: str
    intended_use: str
    metrics: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Bundle:
        """Raises UsageError for a folder that holds something else than a bundle, MienError if it cannot be written."""
        places = {column: place for place, column in enumerate(self.columns) if column is not None}
        heads: dict[str, Any] = {}
        weights: dict[str, bytes] = {self.encoder.file: self.weights}
        for name, task in TASKS.items():
            chosen = {COLUMNS[column][1]: place for column, place in places.items() if COLUMNS[column][0] == name}
            if chosen:
                file = f"{name}.safetensors"
                heads[name] = {"kind": "linear", "options": {}, "file": file, "outputs": list(chosen)}
                heads[name]["threshold"] = task.threshold
                weights[file] = _choice(list(chosen.values()), len(self.columns))
        manifest = {
            "name": self.name,
            "encoder": self.encoder.model_dump(),
            "preprocess": self.preprocess.model_dump(),
            "crop": self.crop.model_dump(),
            "heads": heads,
            "origin": self.origin.model_dump(),
            "recipe": {},
            "data": {},
            "metrics": self.metrics,
            "code_version": "imported",
            "licence": self.licence,
            "intended_use": self.intended_use,
        }
        return folder_.write(folder, manifest, weights)


def _choice(places: Sequence[int], features: int) -> bytes:
    """The weights of a linear head whose outputs are the features at these places, unchanged."""
    from safetensors.numpy import save

    matrix = np.zeros((len(places), features), np.float32)
    matrix[np.arange(len(places)), places] = 1
    return save({"linear.weight": matrix, "linear.bias": np.zeros(len(places), np.float32)})


def read(file: Path, sha256: str | None, what: str) -> tuple[bytes, str]:
    """The content of a file and its SHA-256. Raises UsageError if it is missing or its digest is not `sha256`.

    `what`: the name of the expected file in the error message.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise UsageError(f"{file} is not {what}: its SHA-256 is {found}, not {sha256}")
    return data, found
