"""Features of faces, computed once for an encoder and kept in the work folder for the heads of later runs."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common import log
from common.disk import speaking
from train import processes
from train.models import ranks


def kept(file: Path, shape: tuple[int, int], compute: Callable[[], Tensor]) -> Tensor:
    """float32 [N, D]: what the file holds or, where a process does not have it, what `compute` gives, and then keeps.

    All processes call it, and `compute` gives all of them the same. The file holds plain values and is mapped, so the
    operating system reads those that are used. Raises StoreError if it cannot be written.
    """
    size = math.prod(shape)
    if not processes.highest(int(not _is_whole(file, size))):
        log.get("train").info("features taken from an earlier run", file=str(file))
        return torch.from_file(str(file), shared=False, size=size, dtype=torch.float32).reshape(shape)
    features = compute()
    if ranks.rank() == 0:
        scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            with speaking("write", str(file)):
                features.numpy().tofile(scratch)
                os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
    return features


def _is_whole(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size * torch.float32.itemsize
    except OSError:
        return False
