"""The windows of a head: how a track is cut into windows. Training, evaluation and scoring all use these functions.

A face track has features at the times of its frames. A head takes windows of `window` features at the frame rate that
it was trained at. So each feature is assigned to a point of a grid (point k is at t0 + k / fps, t0 the track's first
time), windows are cut from the grid, overlapping predictions are averaged, and then interpolated at the frames' times.

The papers write "[n/s]+1 segments", whose last one is empty if the stride s divides n. Here the number of windows is
k = max(1, ceil((n - w) / s) + 1), and the last one is padded and masked: no frame is dropped, and no window is empty.

Pure functions over arrays that hold a whole track. `score.sequences` does the same for a track that arrives in pieces.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.config import Config

# In grid steps. Where times are rounded to milliseconds, the time of a frame and that of the track's first frame are
# each wrong by up to half of one: together by up to 0.03 steps at 30 fps. On a 30 fps grid, every other frame of a
# 60 fps file lies half-way between two points: without the tolerance, rounding errors would choose its point.
TOLERANCE = 0.0301

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Windowing(Config):
    """The windows that a head takes, in training and in scoring."""

    fps: float = Field(30.0, gt=0, description="grid points a second; the frame rate that the head is trained at")
    window: int = Field(300, gt=0, description="grid points")
    stride: int = Field(200, gt=0, description="grid points from one window to the next")
    gaps: Literal["repeat", "mask"] = Field(
        "repeat", description="a grid point without a frame repeats the last face, or is masked"
    )

    @model_validator(mode="after")
    def _covers(self) -> Windowing:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} must not exceed window {self.window}, or frames would be left out")
        return self


def breaks(times: NDArray, window: int, fps: float) -> Bools:
    """Whether a new sequence begins between one frame of a track and the next; bool [m - 1] for times [m], in seconds.

    A gap as long as a window ends the sequence. So every window has at least one point that is not masked, and a broken
    time stamp (a jump of hours) does not make millions of empty grid points.
    """
    return np.diff(times) * fps > window - 1


def positions(times: NDArray, origin: float, fps: float) -> Floats:
    """The place of each time on the grid, in steps from `origin`: [m] -> [m], never decreasing.

    A place within `TOLERANCE` of a grid point is that point. A time before its predecessor's counts as equal to it.
    """
    places = np.maximum.accumulate((np.asarray(times, np.float64) - origin) * fps)
    whole = np.rint(places)
    return np.where(np.abs(places - whole) <= TOLERANCE, whole, places)


def points(places: Floats) -> Ints:
    """The grid point of each frame: point k takes the places in (k - 1/2, k + 1/2]; [m] -> [m]."""
    return np.maximum(np.ceil(places - 0.5 - TOLERANCE), 0).astype(np.int64)


def hold(taken: Ints) -> tuple[Ints, Bools]:
    """Sample and hold, for frames at the grid points `taken` [m] (ascending, the first 0).

    Returns for each of the n = taken[-1] + 1 grid points: int64 [n], the latest frame at it or before it; and bool [n],
    whether that frame is at this point and not before it. A bundle with gaps = "mask" masks the other points.
    """
    grid = np.arange(taken[-1] + 1)
    source = np.searchsorted(taken, grid, side="right") - 1
    return source, taken[source] == grid


def starts(n: int, window: int, stride: int) -> Ints:
    """First grid points of the windows over n >= 1 points: max(1, ceil((n - window) / stride) + 1) of them."""
    if not 1 <= stride <= window:
        raise ValueError(f"a stride of {stride} with windows of {window} would leave points out")
    return stride * np.arange(max(1, -((window - n) // stride) + 1))


def cut(features: NDArray, valid: Bools, window: int, stride: int) -> tuple[NDArray[np.float32], Bools]:
    """Cuts windows from a grid: features [n, D], valid [n] -> float32 [k, window, D] and valid bool [k, window].

    Features that are not valid, and those past the end, are zero.
    """
    n, width = features.shape
    first = starts(n, window, stride)
    pieces = np.zeros((len(first), window, width), np.float32)
    mask = np.zeros((len(first), window), bool)
    for piece, kept, start in zip(pieces, mask, first, strict=True):
        stop = min(start + window, n)
        kept[: stop - start] = valid[start:stop]
        piece[: stop - start] = features[start:stop]
    pieces[~mask] = 0
    return pieces, mask


def average(predictions: NDArray, n: int, stride: int) -> Floats:
    """The mean of overlapping windows' predictions at each grid point: [k, window, K] -> float64 [n, K]."""
    window = predictions.shape[1]
    total = np.zeros((n, predictions.shape[2]))
    count = np.zeros((n, 1))
    for piece, start in zip(predictions, starts(n, window, stride), strict=True):
        stop = min(start + window, n)
        total[start:stop] += piece[: stop - start]
        count[start:stop] += 1
    return total / count


def at_frames(predictions: NDArray, valid: Bools, places: Floats) -> Floats:
    """Predictions at the frames' places, interpolated between the two nearest grid points.

    predictions [n, K], valid [n], places [m] -> float64 [m, K]. A point that is masked or past the end is left out. The
    point that a frame was assigned to is always one of the two.
    """
    lower = np.minimum(np.floor(places).astype(np.int64), len(predictions) - 1)
    upper = np.minimum(lower + 1, len(predictions) - 1)
    share = np.clip(places - lower, 0, 1)
    share = np.where(valid[upper], np.where(valid[lower], share, 1.0), 0.0)[:, None]
    low = np.where(share < 1, predictions[lower], 0.0)  # a neighbour that is left out may hold anything, also NaN
    high = np.where(share > 0, predictions[upper], 0.0)
    return np.where(share == 1, high, low + share * np.where(share > 0, high - low, 0.0))
