"""Clips as examples: parts of a track with one expression throughout, each shown by a few of its frames.

A clip of n frames is cut into as many segments of equal length as frames are wanted. Training takes a random frame of
each, evaluation the one in its middle. The segments cover the whole clip: those of DFER-CLIP's published code have
n // 16 frames and never reach the last n mod 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.tasks import TASKS
from train.data.faces import FaceSet
from train.stage_options import ClipCut

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Clips:
    """n clips: the `frames` int64 [n] successive faces of the face set from the row `first` int64 [n] on.

    labels: int64 [n], places in the list of classes.
    """

    first: Ints
    frames: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.first)

    def of(self, faces: NDArray[np.bool_]) -> Clips:
        """Those of the chosen faces (whole videos)."""
        chosen = faces[self.first]
        return Clips(self.first[chosen], self.frames[chosen], self.labels[chosen])

    def centres(self, window: int) -> Ints:
        """int64 [n, window]: the rows of the face set to evaluate."""
        return self.first[:, None] + np.array([centres(frames, window) for frames in self.frames]).reshape(-1, window)

    def drawn(self, chosen: Ints, window: int, rng: np.random.Generator) -> Ints:
        """int64 [B, window]: rows of the face set to train on, of the chosen clips [B]."""
        return self.first[chosen, None] + np.array([drawn(frames, window, rng) for frames in self.frames[chosen]])


def cut(faces: FaceSet, classes: Sequence[str], options: ClipCut) -> Clips:
    """All clips with a label among the classes, in the order of the face set.

    A label of a whole clip makes one clip of its track. Where frames are labelled, a clip is what lies between two
    changes of the label, or of a part of that: parts of equal length, as `options` say.
    """
    known = TASKS["expr"].known
    places = np.full(len(known) + 1, -1)
    places[[known.index(name) for name in classes]] = np.arange(len(classes))
    labels = places[faces.expression]
    found = [
        (first, frames, labels[first])
        for start, stop in _runs(faces, labels)
        for first, frames in _parts(faces, start, stop, options)
    ]
    first, frames, chosen = np.array(found, np.int64).reshape(-1, 3).T
    return Clips(first, frames, chosen)


def seconds(faces: FaceSet, clips: Clips) -> float:
    """How long a clip lasts in the median; 0 without any. Its last frame counts as long as the mean of the others."""
    if not len(clips):
        return 0.0
    lasting = faces.time_s[clips.first + clips.frames - 1] - faces.time_s[clips.first]
    return float(np.median(lasting * clips.frames / np.maximum(clips.frames - 1, 1)))


def _runs(faces: FaceSet, labels: Ints) -> Iterator[tuple[int, int]]:
    """The first row and the row behind the last one of each part of a track with the same label throughout."""
    changes = (np.diff(faces.video) != 0) | (np.diff(faces.track_id) != 0) | (np.diff(labels) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(faces)]
    return ((start, stop) for start, stop in pairwise(bounds) if labels[start] >= 0)


def _parts(faces: FaceSet, start: int, stop: int, options: ClipCut) -> Iterator[tuple[int, int]]:
    """First row and number of frames of each clip in the rows from `start` to `stop`."""
    if faces.of_clip[start]:
        yield start, stop - start
        return
    lasting = faces.time_s[stop - 1] - faces.time_s[start]
    if lasting < options.shortest:
        return
    parts = min(stop - start, max(1, math.ceil(lasting / options.longest)))
    for part in np.array_split(np.arange(start, stop), parts):
        yield int(part[0]), len(part)


def centres(frames: int, window: int) -> Ints:
    """int64 [window]: the middle frame of each segment of a clip; a clip of no more frames repeats its last one."""
    if frames <= window:
        return np.minimum(np.arange(window), frames - 1)
    return (frames / window / 2 + np.arange(window) * frames / window).astype(np.int64)


def drawn(frames: int, window: int, rng: np.random.Generator) -> Ints:
    """int64 [window]: a random frame of each segment; a clip of no more frames repeats its last one."""
    if frames <= window:
        return centres(frames, window)
    bounds = np.arange(window + 1) * frames // window
    return rng.integers(bounds[:-1], bounds[1:])
