"""The faces of a set as a head takes them: in windows, cut exactly as in scoring, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import windows
from common.windows import Windowing
from train.data.faces import FaceSet


@dataclass(frozen=True, eq=False)
class Stretch:
    """A track, or the part of one between two long gaps, on the grid of `common.windows`.

    faces: int64 [m], its rows of the face set; places: float64 [m], where they are on the grid. For each of the n grid
    points: held int64 [n], the row of the face set at or before it; own bool [n], whether that face is at this point.
    """

    faces: NDArray[np.int64]
    places: NDArray[np.float64]
    held: NDArray[np.int64]
    own: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Examples:
    """k windows, or single faces (w = 1). rows: int64 [k, w], the row of the face set at each position; valid and
    labelled: bool [k, w].

    Only a frame's own grid point has labels, not the points that repeat it to fill a gap.
    """

    rows: NDArray[np.int64]
    valid: NDArray[np.bool_]
    labelled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


def stretches(faces: FaceSet, chosen: NDArray[np.bool_], windowing: Windowing) -> Iterator[Stretch]:
    """The stretches of the chosen faces (which must be whole videos), in the order of the face set."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return
    changes = (np.diff(faces.video[rows]) != 0) | (np.diff(faces.track_id[rows]) != 0)
    for track in np.split(rows, np.flatnonzero(changes) + 1):
        times = np.maximum.accumulate(faces.time_s[track])
        gaps = windows.breaks(times, windowing.window, windowing.fps)
        for piece in np.split(np.arange(len(track)), np.flatnonzero(gaps) + 1):
            places = windows.positions(times[piece], times[piece[0]], windowing.fps)
            source, own = windows.hold(windows.points(places))
            yield Stretch(track[piece], places, track[piece][source], own)


def shown(stretch: Stretch, windowing: Windowing) -> NDArray[np.bool_]:
    """bool [n]: the grid points that a head sees."""
    return stretch.own if windowing.gaps == "mask" else np.ones(len(stretch.held), bool)


def cut(stretch: Stretch, windowing: Windowing) -> Examples:
    """The windows of one stretch. The last one is padded; the padding is not valid."""
    starts = windows.starts(len(stretch.held), windowing.window, windowing.stride)
    grid = starts[:, None] + np.arange(windowing.window)
    inside, point = grid < len(stretch.held), np.minimum(grid, len(stretch.held) - 1)
    return Examples(stretch.held[point], inside & shown(stretch, windowing)[point], inside & stretch.own[point])


def training_examples(faces: FaceSet, task: str, windowing: Windowing | None) -> Examples:
    """The examples that a head is trained on: from the task's training videos, those with at least one label."""
    chosen, annotated = faces.train[task], faces.annotated(task)
    if windowing is None:
        rows = np.flatnonzero(chosen & annotated)[:, None]
        return Examples(rows, np.ones(rows.shape, bool), np.ones(rows.shape, bool))
    every = [cut(stretch, windowing) for stretch in stretches(faces, chosen, windowing)]
    rows, valid, own = (
        np.concatenate([getattr(each, name) for each in every]) for name in ("rows", "valid", "labelled")
    )
    labelled = own & annotated[rows]
    taught = labelled.any(axis=1)
    return Examples(rows[taught], valid[taught], labelled[taught])
