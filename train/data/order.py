"""Which examples a step sees: a function of the seed and the step alone, so that every run sees the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def batch_indices(count: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """int64 [batch] below `count`: the `step`-th slice of one epoch after another, each in an order of its own."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(positions, count)
    chosen = np.empty(batch, np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        chosen[here] = _epoch(count, seed, epoch)[places[here]]
    return chosen


@lru_cache(maxsize=4)
def _epoch(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
