"""The results of finished stages, kept in the work folder, so that a run that is started again does not repeat them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common import log
from common.bundle import weights
from common.errors import MienError

_MADE_FROM, _RECORD = "mien.made_from", "mien.record"


class Finished:
    """One file of weights per stage. Its metadata has the digest of the recipe and the data that it was made from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, stage: str, made_from: str, model: nn.Module) -> dict[str, Any] | None:
        """Loads the stage's weights into `model` if they were made from `made_from`, and returns their record."""
        file = self.file(stage)
        try:
            with safe_open(file, "pt") as stored:
                metadata = stored.metadata() or {}
                if metadata.get(_MADE_FROM) != made_from:
                    return None
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # absent or damaged
            return None
        if _shapes(tensors) != _shapes(model.state_dict()):  # checked first: `load_state_dict` would load what fits
            return None
        model.load_state_dict(tensors)
        log.get("train").info("stage taken from an earlier run", stage=stage, file=str(file))
        return json.loads(metadata[_RECORD])

    def keep(self, stage: str, made_from: str, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Saves the stage's weights and the record of its training in place of older ones.

        A kill leaves the old file or the new one.
        """
        file = self.file(stage)
        scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            weights.save(scratch, model.state_dict(), {_MADE_FROM: made_from, _RECORD: json.dumps(record)})
            os.replace(scratch, file)
        except (OSError, SafetensorError) as error:
            raise MienError(f"the result of the stage {stage} cannot be kept in {self._folder}: {error}") from None
        finally:
            scratch.unlink(missing_ok=True)

    def file(self, stage: str) -> Path:
        return self._folder / f"{stage}.safetensors"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
