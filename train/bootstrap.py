"""How sure a metric is: its spread when videos are drawn again with replacement (Efron 1979).

Videos are drawn, not frames, because the frames of a video are much alike. Each metric is a function of sums over
frames, so a draw adds the sums of its videos, each as often as it was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.labels import VALENCE_AROUSAL
from common.tasks import TASKS

DRAWS = 1000
LEVEL = 0.95
_SEED = 0
_HELD = 10_000_000  # numbers: a dataset of pictures has as many videos


def intervals(
    task: str, predictions: NDArray[np.float64], targets: NDArray, video: NDArray[np.integer]
) -> dict[str, tuple[float, float] | None]:
    """By metric: the middle 95 % of its values over 1,000 draws of as many videos as there are.

    predictions [N, K], targets [N, ...], video [N]. None for fewer than two videos, which say nothing of others, and
    where the metric is not defined. The mean over videos of `per_video` is called per_video_<metric>.
    """
    count = len(np.unique(video))
    rng, shares = np.random.default_rng(_SEED), np.full(count, 1 / count)
    at_once = max(1, _HELD // count)
    sizes = [min(at_once, DRAWS - done) for done in range(0, DRAWS, at_once)]
    pieces = [resampled(task, predictions, targets, video, rng.multinomial(count, shares, size)) for size in sizes]
    drawn = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return {name: _middle(values) if count > 1 else None for name, values in drawn.items()}


def per_video(
    task: str, predictions: NDArray[np.float64], targets: NDArray, video: NDArray[np.integer]
) -> dict[str, float]:
    """For valence and arousal, the mean over videos of each video's CCC, of those where it is defined; else nothing."""
    ones = np.ones((1, len(np.unique(video))), np.int64)
    drawn = resampled(task, predictions, targets, video, ones)
    return {name.removeprefix(_MEAN): float(values[0]) for name, values in drawn.items() if name.startswith(_MEAN)}


def resampled(
    task: str,
    predictions: NDArray[np.float64],
    targets: NDArray,
    video: NDArray[np.integer],
    weights: NDArray[np.integer],
) -> dict[str, NDArray[np.float64]]:
    """By metric, float64 [D]: its value if each video counts as often as `weights` [D, V] say, in order of `video`."""
    return _RESAMPLED[task](predictions, targets, np.unique(video, return_inverse=True)[1], weights)


_MEAN = "per_video_"


def _valence_arousal(predictions: NDArray, targets: NDArray, video: NDArray, weights: NDArray) -> dict[str, NDArray]:
    found = {}
    for k, name in enumerate(VALENCE_AROUSAL):
        known = ~np.isnan(targets[:, k])
        # Moved near 0: the differences of sums of squares below would else lose digits.
        middle = targets[known, k].mean(dtype=np.float64) if known.any() else 0.0
        x, y = predictions[:, k] - middle, targets[:, k].astype(np.float64) - middle
        of_frames = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
        sums = _by_video(np.where(known[:, None], of_frames, 0), video)
        each = _ccc(sums)
        defined = ~np.isnan(each)
        found[f"ccc_{name}"] = _ccc(weights @ sums)
        with np.errstate(invalid="ignore"):
            found[f"{_MEAN}ccc_{name}"] = weights @ np.where(defined, each, 0) / (weights @ defined)
    return found


def _ccc(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lin's CCC from the sums [..., 6] of 1, x, y, x^2, y^2 and xy. NaN without frames or without any spread."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares, distance = (xx - x * x / n) + (yy - y * y / n), (x - y) ** 2 / n
        spread = squares + distance
        return np.where(spread > 1e-12 * (xx + yy), 2 * (xy - x * y / n) / spread, np.nan)


def _expression(predictions: NDArray, targets: NDArray, video: NDArray, weights: NDArray) -> dict[str, NDArray]:
    known = (targets >= 0)[:, None]
    classes = np.arange(len(TASKS["expr"].outputs))
    chosen, actual = predictions.argmax(axis=1)[:, None] == classes, targets[:, None] == classes
    return {"f1_expression": _mean_f1(chosen & known, actual & known, video, weights)}


def _action_units(predictions: NDArray, targets: NDArray, video: NDArray, weights: NDArray) -> dict[str, NDArray]:
    threshold, known = TASKS["au"].threshold, targets >= 0
    assert threshold is not None
    return {"f1_action_units": _mean_f1((predictions >= threshold) & known, targets == 1, video, weights)}


def _clips(predictions: NDArray, targets: NDArray, video: NDArray, weights: NDArray) -> dict[str, NDArray]:
    actual = targets[:, None] == np.arange(predictions.shape[1])
    right = actual & (predictions.argmax(axis=1) == targets)[:, None]
    found, counts = weights @ _by_video(right, video), weights @ _by_video(actual, video)
    present = counts > 0
    with np.errstate(invalid="ignore"):
        recalls = (found / np.maximum(counts, 1)).sum(axis=1) / present.sum(axis=1)
        return {"uar": recalls, "war": found.sum(axis=1) / counts.sum(axis=1)}


def _mean_f1(chosen: NDArray[np.bool_], actual: NDArray[np.bool_], video: NDArray, weights: NDArray) -> NDArray:
    """float64 [D]: the mean over classes of F1, of bool [N, K]. A class that is nowhere counts as 0."""
    both = weights @ _by_video(chosen & actual, video)
    either = weights @ _by_video(chosen.astype(np.float64) + actual, video)
    return (2 * both / np.maximum(either, 1)).mean(axis=1)


def _by_video(of_frames: NDArray, video: NDArray) -> NDArray[np.float64]:
    """[N, K] -> [V, K], the sums over each video."""
    sums = np.zeros((video.max(initial=-1) + 1, of_frames.shape[1]))
    np.add.at(sums, video, of_frames)
    return sums


def _middle(values: NDArray[np.float64]) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


_RESAMPLED: dict[str, Callable[[NDArray, NDArray, NDArray, NDArray], dict[str, NDArray]]] = {
    "va": _valence_arousal,
    "expr": _expression,
    "au": _action_units,
    "clips": _clips,
}
