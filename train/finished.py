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

_RECORD = "mien.record"


class Finished:
    """A file of weights per finished stage, named after the stage and the digest of its settings and data.

    So several recipes can share the folder, and a stage that they have in common is trained once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, name: str, model: nn.Module) -> dict[str, Any] | None:
        """Loads the weights of `name`, which is <stage>-<digest>, into `model`, and returns their record, if any."""
        file = self.file(name)
        try:
            with safe_open(file, "pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # absent or damaged
            return None
        if _shapes(tensors) != _shapes(model.state_dict()):  # checked first: `load_state_dict` would load what fits
            return None
        model.load_state_dict(tensors)
        log.get("train").info("stage taken from an earlier run", file=str(file))
        return json.loads(metadata[_RECORD])

    def keep(self, name: str, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Saves the weights and the record of their training. A kill leaves no file, or all of it."""
        file = self.file(name)
        scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            weights.save(scratch, model.state_dict(), {_RECORD: json.dumps(record)})
            os.replace(scratch, file)
        except (OSError, SafetensorError) as error:
            raise MienError(f"the result of the stage {name} cannot be kept in {self._folder}: {error}") from None
        finally:
            scratch.unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
