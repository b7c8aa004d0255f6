"""Tracks: links each face to the same face in earlier frames. Works online and from boxes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from ingest.detect.detector import Faces

TRACK_RESULTS = 1  # version of the tracks and, by `ingest.cuts`, their ends; docs/decisions.md says when to raise it
NO_TRACK = -1
MAX_TRACKS = 256  # alive at once; if there are more, the track that was lost first ends


class TrackerOptions(Config):
    """When a face continues a track, and when it begins one."""

    max_gap_s: float = Field(1.0, ge=0, description="longest time that a track waits for a face it lost")
    new_score: float = Field(
        0.9, ge=0, le=1, description="lowest score that begins a track; a lower one can only continue a track"
    )
    max_shift: float = Field(
        0.6, gt=0, description="farthest move of a face's centre from one detection to the next, in sizes of the face"
    )
    max_growth: float = Field(
        2.0, ge=1, description="largest change of a face's size from one detection to the next, as a factor"
    )


@dataclass
class _Track:
    id: int
    box: NDArray[np.float32]
    time_s: float
    update: int


class Tracker:
    """Gives track ids (0, 1, 2... by first appearance) to the faces of a video's frames, which come in order.

    Faces are paired with tracks so that the sum of their closeness is largest (Hungarian method). Closeness is overlap
    (intersection over union) plus nearness of the centres; pairs beyond the limits of the options are excluded. Tracks
    that had a face in the previous frame are paired first, however much time lies between the frames. The faces that
    are left are paired with lost tracks, for up to `max_gap_s`: so a passer-by does not get the id of the person whom
    he hides. A cut ends all tracks.
    """

    def __init__(self, options: TrackerOptions) -> None:
        self.options = options
        self._tracks: list[_Track] = []
        self._next = 0
        self._updates = 0

    def update(self, frame_index: int, time_s: float, faces: Faces, *, cut: bool = False) -> NDArray[np.int32]:
        """int32 [K]: the track of each face; NO_TRACK if it continues none and its score is too low to begin one."""
        self._updates += 1
        waiting = self.options.max_gap_s
        self._tracks = [
            track
            for track in self._tracks
            if not cut and (track.update == self._updates - 1 or abs(time_s - track.time_s) <= waiting)
        ]
        ids = np.full(len(faces), NO_TRACK, np.int32)
        present, lost = ([t for t in self._tracks if (t.update == self._updates - 1) == seen] for seen in (True, False))
        for tracks in (present, lost):
            free = np.flatnonzero(ids == NO_TRACK)
            for face, track in self._pairs(faces.boxes[free], tracks):
                ids[free[face]] = track.id
                track.box, track.time_s, track.update = faces.boxes[free[face]], time_s, self._updates
        for new in np.flatnonzero((ids == NO_TRACK) & (faces.scores >= self.options.new_score)):
            ids[new] = self._next
            self._tracks.append(_Track(self._next, faces.boxes[new], time_s, self._updates))
            self._next += 1
        self._tracks = sorted(self._tracks, key=lambda track: track.update)[-MAX_TRACKS:]
        return ids

    def _pairs(self, boxes: NDArray, tracks: list[_Track]) -> list[tuple[int, _Track]]:
        if not tracks or not len(boxes):
            return []
        known = np.stack([track.box for track in tracks])
        likeness = closeness(boxes, known, self.options.max_shift, self.options.max_growth)
        from scipy.optimize import linear_sum_assignment  # takes a second to import; the driver does not need it

        rows, columns = linear_sum_assignment(likeness, maximize=True)
        return [(row, tracks[column]) for row, column in zip(rows, columns, strict=True) if likeness[row, column] > 0]


def closeness(a: NDArray, b: NDArray, max_shift: float, max_growth: float) -> NDArray[np.float64]:
    """Boxes [K, 4] and [T, 4] -> [K, T] in [0, 2]: overlap plus nearness; 0 where they cannot be the same face."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    size_a, size_b = (np.sqrt(np.prod(each[..., 2:] - each[..., :2], axis=-1)) for each in (a, b))
    shift = np.linalg.norm((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2, axis=-1)
    size = (size_a + size_b) / 2
    near = 1 - shift / (max_shift * size)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides.prod(-1)
    overlap = common / (size_a**2 + size_b**2 - common)
    alike = np.maximum(size_a, size_b) <= max_growth * np.minimum(size_a, size_b)
    return np.where(alike & (near > 0), overlap + near, 0.0)
