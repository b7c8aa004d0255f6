"""Windows over tracks that arrive in pieces and may last for hours.

The computation is that of `common.windows`, which explains it, but memory is bounded: for each track at most two
windows of features, one window of predictions, and the frames that wait for predictions. Every face gets exactly one
prediction, however the track is cut into pieces. There is no model here: a `Sequence` gives windows and takes the
predictions that a model makes for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common import windows as grid
from common.windows import Windowing


@dataclass(frozen=True, eq=False)
class Window:
    """features float32 [w, D], zero where not valid; valid bool [w]. The first `length` points are not padding."""

    features: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sequence: Sequence
    start: int
    length: int
    last: bool


@dataclass
class _Cutter:
    """Puts features on the grid and cuts windows from it. A later frame may still take the newest point."""

    windowing: Windowing
    start: int = 0  # grid point of the first row kept: where the next window starts
    features: NDArray[np.float32] | None = None  # [r, D]
    own: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # [r]

    def push(self, taken: NDArray[np.int64], features: NDArray[np.float32]) -> Iterator[tuple[int, NDArray, NDArray]]:
        """Frames at grid points `taken` [m] with features [m, D]; yields (start, features, own) of each full window.

        A full window is yielded only when a later point exists, so that `close` always has a last window.
        """
        while len(taken):
            newest = self.start + len(self.own) - 1
            few = max(1, int(np.searchsorted(taken, newest + self.windowing.window, side="right")))
            self._lay(taken[:few], features[:few])
            taken, features = taken[few:], features[few:]
            while len(self.own) > self.windowing.window:
                yield self.head()
                self._drop()

    def _lay(self, taken: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        if self.features is None:
            kept, open_point = features[:0], np.empty(0, np.int64)
            held = features
        else:
            kept, open_point = self.features[:-1], np.array([self.start + len(self.own) - 1])
            held = np.concatenate([self.features[-1:], features])
        points = np.concatenate([open_point, taken])
        source, own = grid.hold(points - points[0])
        self.features = np.concatenate([kept, held[source]])
        self.own = np.concatenate([self.own[: len(kept)], own])

    def head(self) -> tuple[int, NDArray, NDArray]:
        assert self.features is not None, "a sequence has a frame"
        window = self.windowing.window
        return self.start, self.features[:window], self.own[:window]

    def _drop(self) -> None:
        assert self.features is not None
        stride = self.windowing.stride
        self.features, self.own, self.start = self.features[stride:], self.own[stride:], self.start + stride


@dataclass
class _Gatherer:
    """Averages the predictions of overlapping windows and gives them to the frames that wait for them."""

    stride: int
    start: int = 0  # grid point of the first row kept
    total: NDArray[np.float64] | None = None  # [r, K]
    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))
    valid: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    places: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # waiting frames, ascending
    slots: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def wait(self, places: NDArray[np.float64], slots: NDArray[np.int64]) -> None:
        self.places = np.concatenate([self.places, places])
        self.slots = np.concatenate([self.slots, slots])

    def add(self, window: Window, predictions: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Takes the predictions [w, K] of the next window. Returns slots [x], predictions [x, K] of finished frames."""
        stop = window.start + window.length
        if self.total is None:
            self.total = np.zeros((0, predictions.shape[1]))
        more = stop - self.start - len(self.total)
        self.total = np.pad(self.total, ((0, more), (0, 0)))
        self.count = np.pad(self.count, ((0, more), (0, 0)))
        rows = slice(window.start - self.start, stop - self.start)
        self.total[rows] += predictions[: window.length]
        self.count[rows] += 1
        self.valid = np.concatenate([self.valid[: rows.start], window.valid[: window.length]])

        final = stop if window.last else window.start + self.stride
        ready = len(self.places) if window.last else int(np.searchsorted(self.places, final - 1, side="right"))
        done = final - self.start
        slots, places = self.slots[:ready], self.places[:ready] - self.start
        given = grid.at_frames(self.total[:done] / self.count[:done], self.valid[:done], places)
        self.places, self.slots = self.places[ready:], self.slots[ready:]
        self._drop(final - 1)  # the last final point stays: waiting frames interpolate from it
        return slots, given

    def _drop(self, upto: int) -> None:
        assert self.total is not None
        rows = upto - self.start
        self.total, self.count, self.valid = self.total[rows:], self.count[rows:], self.valid[rows:]
        self.start = upto


class Sequence:
    """A track, or its part between two long gaps: takes frames, gives windows, and averages their predictions."""

    def __init__(self, windowing: Windowing, origin: float) -> None:
        self._windowing = windowing
        self._origin = origin
        self._place = 0.0
        self._cutter = _Cutter(windowing)
        self._gatherer = _Gatherer(windowing.stride)

    def push(self, times: NDArray, features: NDArray[np.float32], slots: NDArray[np.int64]) -> Iterator[Window]:
        """Takes the next frames: times [m], features [m, D], and slots [m], the caller's numbers. Yields full windows.

        The caller must pass each window's predictions to `accept`, in the order of the windows, at any later time.
        """
        places = np.maximum(grid.positions(times, self._origin, self._windowing.fps), self._place)
        self._place = float(places[-1])
        self._gatherer.wait(places, slots)
        for piece in self._cutter.push(grid.points(places), features):
            yield self._window(*piece, last=False)

    def close(self) -> Window:
        """The last window, padded."""
        return self._window(*self._cutter.head(), last=True)

    def accept(self, window: Window, predictions: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Takes a model's predictions [w, K] for a window. Returns slots [x], predictions [x, K] of finished frames."""
        return self._gatherer.add(window, predictions)

    def _window(self, start: int, features: NDArray, own: NDArray, *, last: bool) -> Window:
        size, length = self._windowing.window, len(own)
        valid = np.zeros(size, bool)
        valid[:length] = own if self._windowing.gaps == "mask" else True
        padded = np.zeros((size, features.shape[1]), np.float32)
        padded[:length] = features
        padded[~valid] = 0
        return Window(padded, valid, self, start, length, last)
