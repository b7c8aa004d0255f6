"""From faces to features: collects the crops of many frames into batches for the encoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from common.faces import FaceBatch

# Frames wait until a batch of crops is full. Frames without a face add no crop, so at most this many frames wait.
MAX_FRAMES_HELD = 1024


class Encoder(Protocol):
    """What encodes crops: `train.models.scoring.ScoringModel`, in scoring."""

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """crops uint8 [B, S, S, 3] -> features float32 [B, D]."""


def encode(
    batches: Iterable[FaceBatch], encoder: Encoder, *, batch_size: int = 64
) -> Iterator[tuple[FaceBatch, NDArray[np.float32]]]:
    """Yields each batch of faces with its features, float32 [M, D], in order; [0, 0] for a batch without a face.

    One call of the encoder takes `batch_size` crops, also from several batches of faces, which may be of several
    videos. Holds at most `batch_size` crops, `MAX_FRAMES_HELD` frames, and one batch of faces more.
    """
    waiting: deque[FaceBatch] = deque()
    done: list[NDArray[np.float32]] = []  # encoded pieces, in order, from the first face of waiting[0]
    todo: list[NDArray[np.uint8]] = []  # crops not yet encoded
    held = 0

    def run(least: int) -> None:
        """Encodes waiting crops, `batch_size` at a time, until fewer than `least` are left."""
        while todo and sum(map(len, todo)) >= least:
            crops = np.concatenate(todo) if len(todo) > 1 else todo[0]
            features = np.asarray(encoder.encode(crops[:batch_size]), np.float32)
            done.append(features)
            todo[:] = [crops[batch_size:]] if len(crops) > batch_size else []

    def leave() -> Iterator[tuple[FaceBatch, NDArray[np.float32]]]:
        nonlocal held
        pool = np.concatenate(done) if done else np.zeros((0, 0), np.float32)
        while waiting and len(waiting[0].crops) <= len(pool):
            batch = waiting.popleft()
            features, pool = pool[: len(batch.crops)], pool[len(batch.crops) :]
            held -= len(batch.frame_index)
            yield batch, features
        done[:] = [pool] if len(pool) else []

    for batch in batches:
        waiting.append(batch)
        held += len(batch.frame_index)
        if len(batch.crops):
            todo.append(batch.crops)
        run(least=1 if held > MAX_FRAMES_HELD else batch_size)
        yield from leave()
    run(least=1)
    yield from leave()
