"""A file of weights: safetensors, written with the permissions of the umask, and checked by its SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from common.config import Config
from common.errors import UsageError

if TYPE_CHECKING:
    import torch


class WeightsRecord(Config):
    """What the manifest says of a file of weights; `size` in bytes."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(gt=0)


def save(file: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes the tensors and `metadata`. Raises OSError, and SafetensorError for tensors that cannot be stored."""
    # Not `save_file`: only the owner may read the files that it makes.
    file.write_bytes(serialised(tensors, metadata))


def serialised(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """What a file of these tensors holds. Raises SafetensorError for tensors that cannot be stored."""
    from safetensors.torch import save

    # Cloned: safetensors refuses tensors that share storage, such as views of one matrix.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(plain, metadata)


def metadata(data: bytes) -> dict[str, str]:
    """The metadata in what `serialised` gave."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]).get("__metadata__", {})


def record(file: Path) -> WeightsRecord:
    """The size and the SHA-256 of a file. Raises OSError."""
    return WeightsRecord(sha256=_sha256(file), size=file.stat().st_size)


def check(file: Path, expected: WeightsRecord) -> None:
    """Raises UsageError unless the file of a bundle has the expected size and SHA-256."""
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
