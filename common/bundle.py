"""A trained model as a folder: `bundle.json` and `*.safetensors`, every byte checked before anything is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from common import environment
from common.config import Config, digest, explain
from common.errors import MienError, NotFound, UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS

if TYPE_CHECKING:
    import torch

    from common.store.base import StoreSettings

MANIFEST = "bundle.json"

Task = Literal["va", "expr", "au"]
WeightsFile = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.safetensors$")
_CLASSES: dict[str, tuple[str, ...]] = {"expr": EXPRESSIONS, "au": ACTION_UNITS}


class Part(Config):
    """A network: the options it is built from and the file of its weights."""

    options: dict[str, Any]
    file: str = WeightsFile


class EncoderPart(Part):
    """The encoder; `kind` says which of `train.models` builds it."""

    kind: str


class Crop(Config):
    """The aligned crops that the bundle takes: a five-point template and their side in pixels."""

    template: Literal["arcface"] = "arcface"
    size: int = Field(gt=0)


class Preprocess(Config):
    """From an aligned crop to the encoder's input.

    `crop` is x, y and side of a square in the aligned crop's pixels, then scaled to `size` pixels; `standardise` makes
    each picture zero-mean and unit-variance; `mean` and `std` are per channel, of values in [0, 1].
    """

    crop: tuple[int, int, int]
    size: int = Field(gt=0)
    grey: bool = False
    standardise: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class WeightsRecord(Config):
    """What a file of weights must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(gt=0)


class BundleManifest(Config):
    """`bundle.json`; `id` is the digest of all the rest, the SHA-256 of every file of weights included."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    tasks: tuple[Task, ...] = Field(min_length=1)
    encoder: EncoderPart
    preprocess: Preprocess
    crop: Crop
    temporal: dict[Task, Part]
    window: int = Field(gt=0, description="frames")
    stride: int = Field(gt=0, description="frames")
    fps: float = Field(gt=0, description="frame rate of the windows in training, 1/s")
    gaps: Literal["repeat", "mask"]
    classes: dict[Task, tuple[str, ...]]
    thresholds: dict[str, float]
    recipe: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    code_version: str
    licence: str
    intended_use: str
    files: dict[str, WeightsRecord]

    @model_validator(mode="after")
    def _consistent(self) -> BundleManifest:
        if set(self.tasks) != set(self.temporal) or len(set(self.tasks)) != len(self.tasks):
            raise ValueError("'temporal' must hold exactly one model for each of 'tasks'")
        named = {self.encoder.file, *(part.file for part in self.temporal.values())}
        if named != set(self.files):
            raise ValueError("'files' must list exactly the files that 'encoder' and 'temporal' name")
        if self.stride > self.window:
            raise ValueError("'stride' must not exceed 'window', or frames would have no prediction")
        x, y, side = self.preprocess.crop
        if min(x, y) < 0 or side < 1 or max(x, y) + side > self.crop.size:
            raise ValueError("'preprocess.crop' must lie inside the aligned crop")
        if (self.preprocess.mean is None) != (self.preprocess.std is None):
            raise ValueError("'preprocess' must hold both 'mean' and 'std', or neither")
        for task in set(self.tasks) & set(_CLASSES):
            classes = self.classes.get(task, ())
            if len(set(classes)) != len(classes) or not classes or not set(classes) <= set(_CLASSES[task]):
                raise ValueError(
                    f"'classes.{task}' must name classes of {', '.join(_CLASSES[task])}, in the heads' order"
                )
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was found to be what `manifest` says."""

    path: Path
    manifest: BundleManifest

    @classmethod
    def open(cls, path: str | Path, settings: StoreSettings | None = None) -> Bundle:
        """The bundle in a folder, or under s3://... through a local cache; `UsageError` if anything is wrong.

        `settings`: how to reach S3, of this process's environment unless given.
        """
        folder = _download(str(path), settings) if str(path).startswith("s3://") else Path(path)
        if not folder.is_dir():
            raise UsageError(f"there is no bundle at {folder}: name the folder that `mien train --out` wrote")
        try:
            text = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise UsageError(f"{folder} is not a bundle, its {MANIFEST} cannot be read: {error.strerror}") from None
        manifest = _parse(text, str(folder))
        for name, record in manifest.files.items():
            _check(folder / name, record)
        return cls(folder.absolute(), manifest)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a file of weights, on the CPU; `name` is one of `manifest.files`."""
        from safetensors.torch import load_file

        if name not in self.manifest.files:
            raise KeyError(f"the bundle {self.path} has no file {name}")
        return load_file(self.path / name)


def check_destination(folder: Path) -> None:
    """Raises `UsageError` unless `folder` is free for a bundle: absent, empty, or itself a bundle (to be replaced)."""
    if folder.is_dir():
        taken = any(folder.iterdir()) and not (folder / MANIFEST).is_file()
    else:
        taken = folder.exists() or folder.is_symlink()
    if taken:
        raise UsageError(f"{folder} exists and is not a bundle: it would be overwritten, name another folder")


def write(folder: Path, manifest: Mapping[str, Any], weights: Mapping[str, Mapping[str, torch.Tensor]]) -> Bundle:
    """Writes a bundle: `manifest` holds the fields of `BundleManifest` except `id` and `files`, `weights` the tensors.

    The folder appears whole or not at all. A bundle that was there is replaced (a kill between the two renames leaves
    it beside, as `.<name>.<8 hex digits>.old`); `UsageError` for any other folder.
    """
    from safetensors.torch import save_file

    folder = folder.absolute()
    check_destination(folder)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        for name, tensors in weights.items():
            # Cloned: safetensors refuses tensors that share storage, such as views of one matrix.
            plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
            save_file(plain, scratch / name)
        files = {
            name: WeightsRecord(sha256=_sha256(scratch / name), size=(scratch / name).stat().st_size)
            for name in weights
        }
        checked = _with_id({**manifest, "files": {name: record.model_dump() for name, record in files.items()}})
        (scratch / MANIFEST).write_text(json.dumps(checked.model_dump(mode="json"), indent=2) + "\n", "utf-8")
        _install(scratch, folder)
    except OSError as error:
        raise MienError(f"the bundle {folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Bundle(folder, checked)


def _install(scratch: Path, folder: Path) -> None:
    """Moves a finished folder to its place; what was there is out of the way first, as a rename cannot replace it."""
    old = folder.parent / f"{scratch.name}.old"
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(scratch, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _with_id(fields: dict[str, Any]) -> BundleManifest:
    try:
        manifest = BundleManifest.model_validate({**fields, "id": "0" * 12})
    except ValidationError as error:
        raise UsageError(f"the bundle is not complete: {explain(error, BundleManifest)[1]}") from None
    return manifest.model_copy(update={"id": _identity(manifest)})


def _identity(manifest: BundleManifest) -> str:
    return digest(manifest.model_dump(mode="json", exclude={"id"}))


def _parse(text: bytes, where: str) -> BundleManifest:
    try:
        fields = json.loads(text)
    except ValueError:
        raise UsageError(
            f"{MANIFEST} of the bundle {where} is not JSON: copy the bundle again from where it was made"
        ) from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > 1:
        raise UsageError(f"the bundle {where} was made by a newer mien (version {version} of {MANIFEST}): upgrade mien")
    try:
        manifest = BundleManifest.model_validate(fields)
    except ValidationError as error:
        problem = explain(error, BundleManifest)[1]
        raise UsageError(f"{MANIFEST} of the bundle {where} does not describe a bundle: {problem}") from None
    if manifest.id != _identity(manifest):
        raise UsageError(
            f"{MANIFEST} of the bundle {where} was changed, its id {manifest.id} is not the digest of what it says: "
            "copy the bundle again from where it was made"
        )
    return manifest


def _check(file: Path, record: WeightsRecord) -> None:
    try:
        good = file.stat().st_size == record.size and _sha256(file) == record.sha256
    except OSError as error:
        raise UsageError(f"{file.name} of the bundle {file.parent} cannot be read: {error.strerror}") from None
    if not good:
        raise UsageError(
            f"{file.name} of the bundle {file.parent} is damaged, its SHA-256 is not the one in {MANIFEST}: "
            "copy the bundle again from where it was made"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(url: str, settings: StoreSettings | None) -> Path:
    """The bundle of an S3 prefix in the local cache, under the digest of its `bundle.json`: never stale."""
    from common.store.store import Store

    store = Store(url, settings)
    try:
        text = store.read(MANIFEST)
    except NotFound:
        raise UsageError(f"there is no bundle at {url}: it holds no {MANIFEST}") from None
    manifest = _parse(text, url)
    caches = Path(environment.XDG_CACHE_HOME.get() or Path.home() / ".cache")
    folder = caches / "mien" / "bundles" / hashlib.sha256(text).hexdigest()
    if _whole(folder, manifest):
        return folder
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        for name in manifest.files:
            try:
                store.download(name, scratch / name)
            except NotFound:
                raise UsageError(f"{name} of the bundle {url} is missing: copy the bundle there again") from None
        (scratch / MANIFEST).write_bytes(text)
        if not _whole(scratch, manifest):
            raise UsageError(f"the weights of the bundle {url} are damaged: copy the bundle there again")
        try:
            os.rename(scratch, folder)
        except OSError:
            # Another process may have fetched the same bundle meanwhile, and others read it already.
            if not _whole(folder, manifest):
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(scratch, folder)
    except OSError as error:
        if not _whole(folder, manifest):
            raise MienError(f"the bundle {url} cannot be kept in {folder.parent}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _whole(folder: Path, manifest: BundleManifest) -> bool:
    try:
        for name, record in manifest.files.items():
            _check(folder / name, record)
    except UsageError:
        return False
    return (folder / MANIFEST).is_file()
