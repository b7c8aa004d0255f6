"""Reads the tensors of a file that somebody published. Nothing in the file is run: it is data, whoever made it."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_WRAPPERS = ("model", "state_dict")  # where training programs put the weights, beside their optimiser


def read(file: Path, skipped: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, `torch.save`'s (.pth, .pt), or a TorchScript archive.

    `skipped`: classes and functions, by their full names, that the file may ask for: they are never imported. Raises
    OSError for a file that cannot be opened, and ValueError, with the reason, for one that holds no weights, or other
    objects beside them that only code could make.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"it is no file of safetensors ({error})") from None
    with file.open("rb") as stream:
        try:
            archive = _without_code(stream) if zipfile.is_zipfile(stream) else None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # wrong checksum, compressed oddly, encrypted
            raise ValueError("it is a damaged archive") from None
        content = _load(archive or stream, skipped)
    found = dict(_tensors(content)) if isinstance(content, _Scripted) else _unwrapped(content)
    if not found:
        raise ValueError("it holds no weights by name")
    return found


class _Scripted:
    """A module of a TorchScript archive: its parameters and its parts are attributes."""


class _Nothing:
    """Takes the place of an object that is skipped, and ignores what such an object is made of."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _without_code(stream: Any) -> io.BytesIO | None:
    """The data of a TorchScript archive without its code, in the form of `torch.save`; None for any other file.

    `torch.jit.load` would run functions of the archive, and `torch.load` refuses one.
    """
    with zipfile.ZipFile(stream) as archive:
        names = [name.partition("/") for name in archive.namelist()]
        if "constants.pkl" not in (inner for _, _, inner in names):
            stream.seek(0)
            return None
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as copy:
            for folder, slash, inner in names:
                if inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/"):
                    copy.writestr(folder + slash + inner, archive.read(folder + slash + inner))
    data.seek(0)
    return data


def _load(stream: Any, skipped: Collection[str]) -> Any:
    unknown = _objects(stream)
    harmless: list[tuple[type, str]] = [(_Scripted, name) for name in unknown if name.startswith("__torch__.")]
    harmless += [(_Nothing, name) for name in unknown if name in skipped]
    # MAE's training program stores its options as a Namespace, which holds values alone.
    with torch.serialization.safe_globals([argparse.Namespace, *harmless]):
        if refused := _objects(stream):
            raise ValueError(
                f"it holds objects beside its tensors ({', '.join(sorted(refused)[:3])}), and nothing is unpickled "
                "here: save its tensors alone, best as safetensors"
            )
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception:  # those of torch.load have no common base class
            raise ValueError(
                "it is damaged, of another format, or holds objects beside its tensors, and nothing is unpickled here"
            ) from None


def _objects(stream: Any) -> list[str]:
    """What a file would have Python import, beyond tensors and plain values; read from it without running it."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(stream)
    except Exception:  # it reads no files of PyTorch's old form; torch.load refuses objects in these as well
        return []
    finally:
        stream.seek(0)


def _unwrapped(content: Any) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        return {}
    tensors = {name: tensor for name, tensor in content.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if all(name.startswith("module.") for name in tensors):  # as DistributedDataParallel saves them
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _tensors(module: _Scripted, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Scripted):
            yield from _tensors(value, f"{prefix}{name}.")
