"""Checkpoints: where a stage can go on, whatever the ZeRO stage and the number of processes that go on with it.

Below a folder, those of one stage: `<stage>/step=<n>/`, n being how many steps were done. In it, each under a name that
is used once, safetensors (`weights`, `moments` of the optimiser, the `best` weights so far) and `state`, JSON. The last
object is `complete.json`, put only if there is none: it names the others with their size and SHA-256. Without it the
others count for nothing, so a writer may be killed at any moment, and two may write at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from common import log
from common.bundle import weights
from common.bundle.weights import WeightsRecord
from common.config import Config
from common.errors import AlreadyExists, MienError, NotFound
from common.faults import fault
from common.store.store import Store

COMPLETE = "complete.json"
_STATE = "state"
_STEP = re.compile(r"/step=(\d+)/complete\.json$")


@dataclass(frozen=True)
class Checkpoint:
    """A stage after `step` steps: tensors by what they are, then by name, and what JSON can hold."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class _Part(WeightsRecord):
    key: str


class _Complete(Config):
    parts: dict[str, _Part]


class Checkpoints:
    """The checkpoints of one stage in a store. Raises StoreError if the store cannot be read or written."""

    def __init__(self, store: Store, stage: str, keep: int) -> None:
        """`stage`: the name and the digest of its settings and data. `keep`: how many complete ones are kept."""
        self._store, self._stage, self._keep = store, stage, keep

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint. A damaged one is removed, and the one before it taken."""
        for step in sorted(self._steps(), reverse=True):
            try:
                return self.read(step)
            except _Damaged as error:
                log.get("train").warning("checkpoint is damaged, the one before is taken", step=step, why=str(error))
                self._remove(step)
        return None

    def read(self, step: int) -> Checkpoint:
        """The complete checkpoint of a step. Raises MienError for a damaged one."""
        from safetensors.torch import load

        where = self._folder(step)
        try:
            complete = _Complete.model_validate_json(self._store.read(where + COMPLETE))
            found = {name: self._store.read(part.key) for name, part in complete.parts.items()}
        except (ValidationError, NotFound) as error:
            raise _Damaged(f"{self._store.url}/{where} lacks a part: {error}") from None
        for name, part in complete.parts.items():
            if (len(found[name]), _sha256(found[name])) != (part.size, part.sha256):
                raise _Damaged(f"{self._store.url}/{part.key} is not what was written, by its SHA-256")
        state = json.loads(found.pop(_STATE))
        return Checkpoint(step, {name: load(data) for name, data in found.items()}, state)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint, unless there is a complete one of its step, and removes the oldest ones."""
        folder, attempt = self._folder(checkpoint.step), uuid.uuid4().hex[:8]
        parts = {}
        for name in (*checkpoint.tensors, _STATE):
            if name == _STATE:
                key, data = f"{folder}state-{attempt}.json", json.dumps(checkpoint.state).encode()
            else:
                key, data = f"{folder}{name}-{attempt}.safetensors", weights.serialised(checkpoint.tensors[name])
            self._store.create(key, data)
            fault("checkpoint.part", name)
            parts[name] = _Part(key=key, size=len(data), sha256=_sha256(data))
        with suppress(AlreadyExists):
            self._store.create(folder + COMPLETE, _Complete(parts=parts).model_dump_json(indent=1).encode())
        fault("checkpoint.complete")
        for step in sorted(self._steps(), reverse=True)[self._keep :]:
            self._remove(step)

    def clear(self) -> None:
        """Removes all checkpoints of the stage, as it is finished."""
        self._delete(self._stage + "/")

    def _steps(self) -> list[int]:
        """The steps with a complete checkpoint."""
        found = (_STEP.search(entry.key) for entry in self._store.list(self._stage + "/"))
        return [int(each[1]) for each in found if each]

    def _remove(self, step: int) -> None:
        # First the object without which the others count for nothing.
        self._store.delete([self._folder(step) + COMPLETE])
        self._delete(self._folder(step))

    def _delete(self, prefix: str) -> None:
        self._store.delete([entry.key for entry in self._store.list(prefix)])

    def _folder(self, step: int) -> str:
        return f"{self._stage}/step={step}/"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Damaged(MienError):
    """A checkpoint that is not what its writer wrote."""
