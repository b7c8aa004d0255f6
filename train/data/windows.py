"""Features and labels on the grid of a bundle's frame rate, cut into windows exactly as scoring cuts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import windows
from train.data.faces import FaceSet
from train.recipe import DataOptions


@dataclass(frozen=True, eq=False)
class Stretch:
    """A track without a long gap: `faces` [m], its rows of the face set at `places` [m] on the grid.

    Each of the n grid points holds the face `held` int64 [n], which is its own where `own` bool [n].
    """

    faces: NDArray[np.int64]
    places: NDArray[np.float64]
    held: NDArray[np.int64]
    own: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Windows:
    """k windows: the row of the face set at each position, int64 [k, w]; valid and labelled bool [k, w].

    Only a frame's own grid point has labels: the repeats that fill a gap teach nothing.
    """

    rows: NDArray[np.int64]
    valid: NDArray[np.bool_]
    labelled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


def stretches(faces: FaceSet, chosen: NDArray[np.bool_], data: DataOptions) -> Iterator[Stretch]:
    """The stretches of the chosen faces (whole videos), in the order of the face set."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return
    changes = (np.diff(faces.video[rows]) != 0) | (np.diff(faces.track_id[rows]) != 0)
    for track in np.split(rows, np.flatnonzero(changes) + 1):
        times = np.maximum.accumulate(faces.time_s[track])
        gaps = windows.breaks(times, data.window, data.fps)
        for piece in np.split(np.arange(len(track)), np.flatnonzero(gaps) + 1):
            places = windows.positions(times[piece], times[piece[0]], data.fps)
            source, own = windows.hold(windows.points(places))
            yield Stretch(track[piece], places, track[piece][source], own)


def shown(stretch: Stretch, data: DataOptions) -> NDArray[np.bool_]:
    """bool [n]: the grid points that a model sees."""
    return stretch.own if data.gaps == "mask" else np.ones(len(stretch.held), bool)


def cut(stretch: Stretch, data: DataOptions) -> Windows:
    """The windows of one stretch: its last one padded, with the padding not valid."""
    grid = windows.starts(len(stretch.held), data.window, data.stride)[:, None] + np.arange(data.window)
    inside, point = grid < len(stretch.held), np.minimum(grid, len(stretch.held) - 1)
    return Windows(stretch.held[point], inside & shown(stretch, data)[point], inside & stretch.own[point])


def training_windows(faces: FaceSet, task: str, data: DataOptions) -> Windows:
    """The windows of the task's training videos, but for those without a label: of faces that nobody annotated."""
    every = [cut(stretch, data) for stretch in stretches(faces, faces.train[task], data)]
    rows, valid, own = (
        np.concatenate([getattr(each, name) for each in every]) for name in ("rows", "valid", "labelled")
    )
    labelled = own & faces.annotated(task)[rows]
    taught = labelled.any(axis=1)
    return Windows(rows[taught], valid[taught], labelled[taught])
