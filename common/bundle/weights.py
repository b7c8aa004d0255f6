"""A file of weights: safetensors, written for whoever the umask lets read it, and checked by its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from common.config import Config
from common.errors import UsageError

if TYPE_CHECKING:
    import torch


class WeightsRecord(Config):
    """What a file of weights must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(gt=0)


def save(file: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes the tensors, and `metadata` with them. Raises OSError, and SafetensorError for what cannot be stored."""
    from safetensors.torch import save as serialise

    # Cloned: safetensors refuses tensors that share storage, such as views of one matrix.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Not `save_file`: it makes files that only their owner may read.
    file.write_bytes(serialise(plain, metadata))


def record(file: Path) -> WeightsRecord:
    """What a reader can check the file by. Raises OSError."""
    return WeightsRecord(sha256=_sha256(file), size=file.stat().st_size)


def check(file: Path, expected: WeightsRecord) -> None:
    """Raises UsageError unless the file of a bundle is what its manifest says."""
    try:
        good = file.stat().st_size == expected.size and _sha256(file) == expected.sha256
    except OSError as error:
        raise UsageError(f"{file.name} of the bundle {file.parent} cannot be read: {error.strerror}") from None
    if not good:
        raise UsageError(
            f"{file.name} of the bundle {file.parent} is damaged, its SHA-256 is not the one in bundle.json: "
            "copy the bundle again from where it was made"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
