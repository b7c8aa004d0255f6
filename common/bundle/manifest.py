"""`bundle.json`: what a bundle holds and what a program that uses it must know."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from common.bundle.weights import WeightsRecord
from common.config import Config, digest, explain
from common.crops import Crop
from common.errors import UsageError
from common.tasks import TASKS, TaskName

MANIFEST = "bundle.json"
SCHEMA_VERSION = 2


class Part(Config):
    """A network: `train.models` builds it from `kind` and `options`, and `file` holds its weights."""

    kind: str
    options: dict[str, Any]
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|onnx)$")


class HeadPart(Part):
    """The head of a task. The windows that it takes are among its `options`."""

    outputs: tuple[str, ...] = Field(min_length=1, description="names of the values that the head gives, in order")
    threshold: float | None = Field(None, description="probability from which on a class counts as present")
    thresholds: dict[str, float] | None = Field(
        None, description="by output: the same, with the highest F1 on the validation videos"
    )


class Preprocess(Config):
    """From an aligned crop to the encoder's input.

    `crop` is x, y and side of a square in the aligned crop's pixels, then scaled to `size` pixels; `standardise` makes
    each picture zero-mean and unit-variance; `mean` and `std` are per channel, of values in [0, 1].
    """

    crop: tuple[int, int, int] = Field(description="x, y and side of the square that is seen, px of the aligned crop")
    size: int = Field(gt=0, description="side that it is scaled to, px")
    grey: bool = Field(False, description="one channel, the brightness")
    standardise: bool = Field(False, description="each picture is made zero-mean and unit-variance")
    mean: tuple[float, ...] | None = Field(None, description="per channel, subtracted from values in [0, 1]")
    std: tuple[float, ...] | None = Field(None, description="per channel, divided by; with mean, or neither")


class Origin(Config):
    """Where imported weights come from."""

    publisher: str = Field(description="who published them, and where")
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file that was read")


class BundleManifest(Config):
    """`bundle.json`; `id` is the digest of all other fields, which include the SHA-256 of every file of weights."""

    schema_version: Literal[2] = 2
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    encoder: Part
    preprocess: Preprocess
    crop: Crop
    heads: dict[TaskName, HeadPart] = Field(min_length=1, description="by task")
    origin: Origin | None = Field(None, description="None: trained by mien, as `recipe` and `data` say")
    recipe: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    code_version: str
    licence: str
    intended_use: str
    files: dict[str, WeightsRecord]

    @model_validator(mode="after")
    def _consistent(self) -> BundleManifest:
        if {self.encoder.file, *(head.file for head in self.heads.values())} != set(self.files):
            raise ValueError("'files' must list exactly the files that 'encoder' and 'heads' name")
        x, y, side = self.preprocess.crop
        if min(x, y) < 0 or side < 1 or max(x, y) + side > self.crop.size:
            raise ValueError("'preprocess.crop' must lie inside the aligned crop")
        if (self.preprocess.mean is None) != (self.preprocess.std is None):
            raise ValueError("'preprocess' must hold both 'mean' and 'std', or neither")
        for name, head in self.heads.items():
            if len(set(head.outputs)) != len(head.outputs) or not set(head.outputs) <= set(TASKS[name].known):
                raise ValueError(f"'heads.{name}.outputs' must name some of {', '.join(TASKS[name].known)}, each once")
            if not set(head.thresholds or ()) <= set(head.outputs):
                raise ValueError(f"'heads.{name}.thresholds' must be of outputs of the head")
        return self


def complete(fields: dict[str, Any]) -> BundleManifest:
    """The manifest with these `fields` (all but `id`) and its id. Raises UsageError for fields that do not fit."""
    try:
        manifest = BundleManifest.model_validate({**fields, "id": "0" * 12})
    except ValidationError as error:
        raise UsageError(f"the bundle is not complete: {explain(error, BundleManifest)[1]}") from None
    return manifest.model_copy(update={"id": _identity(manifest.model_dump(mode="json"))})


def parse(text: bytes, where: str) -> BundleManifest:
    """The manifest in `text`, the content of the `bundle.json` at `where`. Raises UsageError if it is wrong."""
    try:
        fields = json.loads(text)
    except ValueError:
        raise UsageError(
            f"{MANIFEST} of the bundle {where} is not JSON: copy the bundle again from where it was made"
        ) from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        made = f"the bundle {where} was made by {'an older' if version < SCHEMA_VERSION else 'a newer'} mien"
        remedy = "train it again with this version" if version < SCHEMA_VERSION else "upgrade mien"
        raise UsageError(f"{made} (version {version} of {MANIFEST}, not {SCHEMA_VERSION}): {remedy}")
    try:
        manifest = BundleManifest.model_validate(fields)
    except ValidationError as error:
        problem = explain(error, BundleManifest)[1]
        raise UsageError(f"{MANIFEST} of the bundle {where} does not describe a bundle: {problem}") from None
    if manifest.id != _identity(fields):
        raise UsageError(
            f"{MANIFEST} of the bundle {where} was changed, its id {manifest.id} is not the digest of what it says: "
            "copy the bundle again from where it was made"
        )
    return manifest


def _identity(fields: dict[str, Any]) -> str:
    """The digest of the fields as written, not as parsed: defaults that a later mien adds do not change older ids."""
    return digest({name: value for name, value in fields.items() if name != "id"})
