"""The metrics of the ABAW protocol and of clips, and their chance levels. NumPy only.

Each metric pools the annotated frames, or clips, of all videos; none is a mean over videos. Frames without a label
(NaN, or -1 for integers) never count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import MienError
from common.labels import ACTION_UNITS, EXPRESSIONS, VALENCE_AROUSAL
from common.tasks import TASKS


def ccc(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Lin's concordance correlation coefficient of two series of one shape; labels NaN where not annotated.

    NaN without frames, or if both series are the same constant.
    """
    x, y = np.asarray(predictions, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if not len(x):
        return float("nan")
    dx, dy = x - x.mean(), y - y.mean()
    spread = dx @ dx + dy @ dy + len(x) * (x.mean() - y.mean()) ** 2
    # The mean of a constant series is rounded, so its spread is not exactly 0.
    varies = spread > np.finfo(np.float64).eps * (x @ x + y @ y)
    return float(2 * (dx @ dy) / spread) if varies else float("nan")


def with_mean(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with `ccc_mean`, the mean of both CCCs, where they have both."""
    both = [metrics.get(f"ccc_{name}") for name in VALENCE_AROUSAL]
    known = [value for value in both if value is not None]
    return {"ccc_mean": sum(known) / len(known), **metrics} if len(known) == len(both) else dict(metrics)


def expression_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Macro-F1 over the fixed 8 classes; class numbers [N], labels -1 where not annotated.

    A class that is neither predicted nor present counts as 0, so that folds can be compared.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    known = labels >= 0
    predicted, labels = predicted[known], labels[known]
    classes = np.arange(len(EXPRESSIONS))
    return float(np.mean([_f1(predicted == each, labels == each) for each in classes]))


def action_unit_f1s(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: Mapping[str, float] | None = None
) -> dict[str, float]:
    """F1 of each action unit, at 0.5 but for units that `thresholds` names; [N, 12] both, labels -1 where unknown."""
    limits = [(thresholds or {}).get(unit, TASKS["au"].threshold) for unit in ACTION_UNITS]
    active, labels = np.asarray(probabilities) >= np.array(limits, np.float64), np.asarray(labels)
    return {
        unit: _f1(active[labels[:, k] >= 0, k], labels[labels[:, k] >= 0, k] == 1)
        for k, unit in enumerate(ACTION_UNITS)
    }


def confusion(predicted: ArrayLike, labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """int64 [K, K]: how many examples of each class (row) were taken for which (column); class numbers [N], both."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def uar(confused: NDArray[np.integer]) -> float:
    """Unweighted average recall: the mean over classes of the share that was recognised. Absent classes do not count.

    confused: [K, K] as `confusion` makes it. NaN without examples.
    """
    counts = confused.sum(axis=1)
    present = counts > 0
    return float((confused.diagonal()[present] / counts[present]).mean()) if present.any() else float("nan")


def war(confused: NDArray[np.integer]) -> float:
    """Weighted average recall: the share of all examples that was recognised. NaN without examples."""
    return float(confused.trace() / confused.sum()) if confused.any() else float("nan")


def _clips(predictions: NDArray, targets: NDArray) -> dict[str, float]:
    confused = confusion(predictions.argmax(axis=1), targets, predictions.shape[1])
    return {"uar": uar(confused), "war": war(confused)}


def _valence_arousal(predictions: NDArray, targets: NDArray) -> dict[str, float]:
    return {f"ccc_{name}": ccc(predictions[:, k], targets[:, k]) for k, name in enumerate(VALENCE_AROUSAL)}


def _expression(predictions: NDArray, targets: NDArray) -> dict[str, float]:
    return {"f1_expression": expression_f1(np.argmax(predictions, axis=1), targets)}


def _action_units(predictions: NDArray, targets: NDArray) -> dict[str, float]:
    each = action_unit_f1s(predictions, targets)
    return {"f1_action_units": float(np.mean(list(each.values()))), **{f"f1_{k}": v for k, v in each.items()}}


_METRICS: dict[str, Callable[[NDArray, NDArray], dict[str, float]]] = {
    "va": _valence_arousal,
    "expr": _expression,
    "au": _action_units,
    "clips": _clips,
}


def measure(task: str, predictions: NDArray, targets: NDArray) -> dict[str, float]:
    """Metrics by name, of a task's published predictions [N, K] and the targets [N, ...] of all frames of a split.

    The expressions of clips are the task "clips". Raises `MienError` for a prediction that is not finite: F1 would take
    it for one of the classes.
    """
    broken = int((~np.isfinite(predictions)).any(axis=1).sum())
    if broken:
        raise MienError(f"{broken} of {len(predictions)} predictions of {task} are not finite: train that head again")
    return _METRICS[task](predictions, targets)


@dataclass(frozen=True)
class Chance:
    """What guessing without looking at a face would reach: expected values for large N. The CCC of a constant is 0."""

    ccc: float
    expression_f1_majority: float
    expression_f1_random: float
    action_unit_f1_all_ones: float
    action_unit_f1_random: float


def chance(expressions: ArrayLike, action_units: ArrayLike) -> Chance:
    """From the labels alone: [N] and [N, 12], -1 where not annotated.

    Random expressions are drawn uniformly, random action units each at its own frequency.
    """
    expressions, action_units = np.asarray(expressions), np.asarray(action_units)
    counts = np.bincount(expressions[expressions >= 0], minlength=len(EXPRESSIONS))
    shares = counts / max(counts.sum(), 1)
    known = action_units >= 0
    frequencies = (action_units == 1).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    uniform = 1 / len(EXPRESSIONS)
    return Chance(
        ccc=0.0,
        expression_f1_majority=float(2 * shares.max() / (1 + shares.max()) / len(EXPRESSIONS)),
        expression_f1_random=float(np.mean(2 * shares * uniform / (shares + uniform))),
        action_unit_f1_all_ones=float(np.mean(2 * frequencies / (1 + frequencies))),
        action_unit_f1_random=float(np.mean(frequencies)),
    )


def _f1(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> float:
    found = int((predicted & actual).sum())
    either = int(predicted.sum()) + int(actual.sum())
    return 2 * found / either if either else 0.0
