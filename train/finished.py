"""The results of finished stages, kept in a store, so that a run that is started again does not repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from common import log
from common.bundle import weights
from common.errors import AlreadyExists, NotFound
from common.store.store import Store

_RECORD = "mien.record"


class Finished:
    """An object of weights per finished stage, named after the stage and the digest of its settings and data.

    So several recipes can share the store, and a stage that they have in common is trained once. Raises StoreError if
    the store cannot be read or written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def restore(self, name: str, model: nn.Module) -> dict[str, Any] | None:
        """Loads the weights of `name`, which is <stage>-<digest>, into `model`, and returns their record, if any.

        What is damaged, or of another shape, is removed.
        """
        where = f"{self._store.url}/{key(name)}"
        try:
            data = self._store.read(key(name))
        except NotFound:
            return None
        try:
            tensors = load(data)
        except SafetensorError:
            tensors = None
        # Checked first: `load_state_dict` would load what fits.
        if tensors is None or _shapes(tensors) != _shapes(model.state_dict()):
            log.get("train").warning("the stage's result is damaged, it is trained again", file=where)
            self._store.delete([key(name)])
            return None
        model.load_state_dict(tensors)
        log.get("train").info("stage taken from an earlier run", file=where)
        return json.loads(weights.metadata(data)[_RECORD])

    def keep(self, name: str, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Saves the weights and the record of their training, unless another run has done so. A kill leaves nothing,
        or all of it."""
        with suppress(AlreadyExists):
            self._store.create(key(name), weights.serialised(model.state_dict(), {_RECORD: json.dumps(record)}))


def key(name: str) -> str:
    """The object of a stage's result in the store."""
    return f"{name}.safetensors"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
