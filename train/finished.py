"""The results of finished stages, kept in the work folder, so that a run that is started again does not repeat them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common import log
from common.bundle import weights
from common.errors import MienError

_MADE_FROM = "mien.made_from"


class Finished:
    """One file of weights per stage. Its metadata has the digest of the recipe and the data that it was made from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, stage: str, made_from: str, model: nn.Module) -> bool:
        """Loads the stage's weights into `model` if they were made from `made_from`. Returns whether it did."""
        file = self.file(stage)
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get(_MADE_FROM) != made_from:
                    return False
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # absent or damaged
            return False
        if _shapes(tensors) != _shapes(model.state_dict()):  # checked first: `load_state_dict` would load what fits
            return False
        model.load_state_dict(tensors)
        log.get("train").info("stage taken from an earlier run", stage=stage, file=str(file))
        return True

    def keep(self, stage: str, made_from: str, model: nn.Module) -> None:
        """Saves the stage's weights in place of older ones; a kill leaves the old file or the new one."""
        file = self.file(stage)
        scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            weights.save(scratch, model.state_dict(), {_MADE_FROM: made_from})
            os.replace(scratch, file)
        except (OSError, SafetensorError) as error:
            raise MienError(f"the result of the stage {stage} cannot be kept in {self._folder}: {error}") from None
        finally:
            scratch.unlink(missing_ok=True)

    def file(self, stage: str) -> Path:
        return self._folder / f"{stage}.safetensors"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
