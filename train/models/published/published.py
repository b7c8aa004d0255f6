"""The bundle that every import makes: networks of published weights, and what a bundle says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.bundle import folder as folder_
from common.bundle.folder import Bundle
from common.bundle.manifest import HeadPart, Origin, Part, Preprocess
from common.crops import Crop
from common.errors import UsageError
from common.tasks import TASKS

COLUMNS = {task.columns([output])[0]: (task.name, output) for task in TASKS.values() for output in task.known}
"""Every column of `scores` that a model can fill: its task and the name of the output there."""


@dataclass(frozen=True)
class Networks:
    """An encoder and a head for each task, with the contents of their files by name."""

    encoder: Part
    heads: Mapping[str, HeadPart]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Published:
    """A bundle to be written.

    The bundle's id depends on these fields alone, so the same weights have the same id in every version of mien.
    """

    name: str
    networks: Networks
    preprocess: Preprocess
    crop: Crop
    origin: Origin
    licence: str
    intended_use: str
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns of `scores` that the model fills."""
        return [name for task, head in self.networks.heads.items() for name in TASKS[task].columns(head.outputs)]

    def write(self, folder: Path) -> Bundle:
        """Raises UsageError for a folder that holds something else than a bundle, MienError if it cannot be written."""
        manifest = {
            "name": self.name,
            "encoder": self.networks.encoder.model_dump(mode="json"),
            "preprocess": self.preprocess.model_dump(),
            "crop": self.crop.model_dump(),
            "heads": {task: head.model_dump(mode="json") for task, head in self.networks.heads.items()},
            "origin": self.origin.model_dump(),
            "recipe": {},
            "data": {},
            "metrics": self.metrics,
            "code_version": "imported",
            "licence": self.licence,
            "intended_use": self.intended_use,
        }
        return folder_.write(folder, manifest, self.networks.files)


def with_columns(encoder: Part, weights: bytes, columns: Sequence[str | None]) -> Networks:
    """An encoder that gives values instead of features. `columns`: of each value its column of `scores`, or None.

    Its heads are linear layers that pass these values on.
    """
    places = {column: place for place, column in enumerate(columns) if column is not None}
    heads: dict[str, HeadPart] = {}
    files = {encoder.file: weights}
    for name, task in TASKS.items():
        chosen = {COLUMNS[column][1]: place for column, place in places.items() if COLUMNS[column][0] == name}
        if chosen:
            file = f"{name}.safetensors"
            heads[name] = HeadPart(
                kind="linear", options={}, file=file, outputs=tuple(chosen), threshold=task.threshold
            )
            files[file] = _choice(list(chosen.values()), len(columns))
    return Networks(encoder, heads, files)


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
    return data, _expected(hashlib.sha256(data).hexdigest(), file, sha256, what)


def digest(file: Path, sha256: str | None, what: str) -> str:
    """The SHA-256 of a file that may be too large for the memory; raises UsageError as `read` does."""
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    return _expected(found, file, sha256, what)


def _expected(found: str, file: Path, sha256: str | None, what: str) -> str:
    if sha256 not in (None, found):
        raise UsageError(f"{file} is not {what}: its SHA-256 is {found}, not {sha256}")
    return found
