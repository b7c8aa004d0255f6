"""A bundle as a folder: opened only if every byte is right, written completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from common.bundle import weights as weights_
from common.bundle.card import CARD, card
from common.bundle.manifest import MANIFEST, BundleManifest, complete, parse
from common.errors import MienError, UsageError

if TYPE_CHECKING:
    import torch

    from common.lake.layout import Lake
    from common.store.base import StoreSettings


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against `manifest`."""

    path: Path
    manifest: BundleManifest

    @classmethod
    def open(cls, path: str | Path, settings: StoreSettings | None = None) -> Bundle:
        """The bundle in a folder, or under s3://... through a local cache; `UsageError` if anything is wrong.

        `settings`: how to reach S3, of this process's environment unless given.
        """
        if str(path).startswith("s3://"):
            from common.bundle.remote import fetch

            folder = fetch(str(path), settings)
        else:
            folder = Path(path)
        if not folder.is_dir():
            raise UsageError(
                f"there is no bundle at {folder}: name a folder that `mien train` or `mien import` wrote with --out"
            )
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise UsageError(
                f"{folder} is not a bundle, it holds no {MANIFEST}: name a folder that `mien train` or `mien import` "
                "wrote with --out"
            ) from None
        except OSError as error:
            raise UsageError(f"the {MANIFEST} of the bundle {folder} cannot be read: {error.strerror}") from None
        manifest = parse(text, str(folder))
        for name, record in manifest.files.items():
            weights_.check(folder / name, record)
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


def refuse_to_replace(folder: Path, lake: Lake | None = None) -> None:
    """Raises `UsageError` for a bundle in `folder`; says which scores `lake` has by it. Only this lake can be asked."""
    try:
        held = parse((folder / MANIFEST).read_bytes(), str(folder))
    except OSError:
        return
    except UsageError:
        what, rows = "a bundle", "rows that it has scored keep the name of its model"
    else:
        what, model = f"the bundle {held.name} {held.id}", f"{held.name}-{held.id}-"
        rows = f"rows that it has scored keep their model's name, {model}..."
        scored = [p for p in lake.partitions("scores") if p["model"].startswith(model)] if lake else []
        if lake and scored:
            names = ", ".join(f"{p['model']} in archive {p['archive']}" for p in scored)
            rows = f"its scores in the lake {lake.url} stay ({names})"
    raise UsageError(f"{folder} holds {what}: replace it with --force, or name another folder; {rows}")


def write(
    folder: Path,
    manifest: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, torch.Tensor] | bytes],
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> Bundle:
    """Writes a bundle: `manifest` holds the fields of `BundleManifest` except `id` and `files`, `weights` the tensors
    of each file, or its bytes as they are. Its model card is written from these. `beside`: files for other programs,
    which are no part of the bundle.

    The folder appears whole or not at all; who may read it is for the umask to say. A bundle that was there is replaced
    (a kill between the two renames leaves it beside, as `.<name>.<8 hex digits>.old`); `UsageError` for any other
    folder.
    """
    folder = folder.absolute()
    check_destination(folder)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        for name, content in weights.items():
            if isinstance(content, bytes):
                (scratch / name).write_bytes(content)
            else:
                weights_.save(scratch / name, content)
        files = {name: weights_.record(scratch / name).model_dump() for name in weights}
        checked = complete({**manifest, "files": files})
        (scratch / MANIFEST).write_text(json.dumps(checked.model_dump(mode="json"), indent=2) + "\n", "utf-8")
        (scratch / CARD).write_text(card(checked), "utf-8")
        for name, content in beside.items():
            (scratch / name).write_bytes(content)
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
