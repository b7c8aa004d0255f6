"""The examples of each training step. They depend on the seed and the step alone, so every run takes the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def batch_indices(count: int, batch: int, step: int, seed: int, *, drop_last: bool = False) -> NDArray[np.int64]:
    """int64 [batch], indices below `count`: slice number `step` of all epochs in a row, each in a new random order.

    `drop_last`: an epoch ends with its last full batch, so `count` must not be below `batch`.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(positions, count // batch * batch if drop_last else count)
    chosen = np.empty(batch, np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        chosen[here] = _epoch(count, seed, epoch)[places[here]]
    return chosen


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
