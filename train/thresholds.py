"""The probability from which on a class counts as present: for each class the one with the highest F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from train.metrics import action_unit_f1s


def best(
    probabilities: NDArray[np.float64], labels: NDArray, outputs: Sequence[str], default: float
) -> dict[str, float]:
    """By output: the threshold with the highest F1 over the labelled frames, of several the highest threshold.

    probabilities [N, K], labels [N, K], -1 where not annotated. It lies halfway between two probabilities, so that
    rounding does not change what counts as present. `default` for a class that no label has.
    """
    return {
        output: _best(probabilities[labels[:, k] >= 0, k], labels[labels[:, k] >= 0, k] == 1, default)
        for k, output in enumerate(outputs)
    }


def mean_f1(probabilities: NDArray[np.float64], labels: NDArray, thresholds: Mapping[str, float]) -> float:
    """The mean F1 of the action units at thresholds of their own."""
    return float(np.mean(list(action_unit_f1s(probabilities, labels, thresholds).values())))


def _best(probabilities: NDArray[np.float64], present: NDArray[np.bool_], default: float) -> float:
    if not present.any():
        return default
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    found, taken = np.cumsum(present[order]), np.arange(1, len(ranked) + 1)
    f1 = 2 * found / (taken + present.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # equal probabilities are taken together
    last = int(np.argmax(f1))
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)
