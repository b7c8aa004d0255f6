"""Tracks: links each face to the same face in earlier frames, by where it is and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from ingest.detect.detector import Faces

TRACK_RESULTS = 2  # version of tracks, with `ingest.cuts` and `ingest.looks`; docs/decisions.md says when to raise it
NO_TRACK = -1
MAX_TRACKS = 256  # alive at once; if there are more, the track that was lost first ends
NEWEST = 0.5  # weight of a face's latest move in its track's speed
SLOWING = 0.8  # what is left of its speed in each frame in which a face is lost
WIDER = 0.25  # how much farther a lost face may be in each frame, in `max_shift`
WIDEST = 3.0  # and at most
LATEST = 0.1  # weight of a face's latest look in its track's usual look


class TrackerOptions(Config):
    """When a face continues a track, and when it begins one."""

    max_gap_s: float = Field(1.0, ge=0, description="longest time that a track waits for a face it lost")
    new_score: float = Field(
        0.9, ge=0, le=1, description="lowest score that begins a track; a lower one can only continue a track"
    )
    max_shift: float = Field(
        0.6, gt=0, description="farthest that a face may be from where its track expects it, in sizes of the face"
    )
    max_growth: float = Field(
        2.0, ge=1, description="largest change of a face's size from one detection to the next, as a factor"
    )
    min_likeness: float = Field(
        0.6, ge=-1, le=1, description="how much a face has to look like those of its track: 1 is the same picture"
    )


@dataclass
class _Track:
    id: int
    box: NDArray[np.float64]
    speed: NDArray[np.float64]  # [2], of the centre, in pixels a frame
    look: NDArray[np.float32]  # of the last face
    usual: NDArray[np.float32]  # mean over the last faces, of length 1
    time_s: float
    update: int

    def expected(self, update: int) -> NDArray[np.float64]:
        """The box where the face would be if it moved on and slowed down."""
        steps = np.arange(update - self.update)
        return self.box + np.tile(self.speed, 2) * (SLOWING**steps).sum()

    def take(self, box: NDArray, look: NDArray[np.float32], time_s: float, update: int) -> None:
        move = (box - self.box).reshape(2, 2).mean(0) / (update - self.update)
        self.speed = NEWEST * move + (1 - NEWEST) * self.speed
        self.box, self.look, self.time_s, self.update = box, look, time_s, update
        usual = LATEST * look + (1 - LATEST) * self.usual
        self.usual = usual / np.linalg.norm(usual)


class Tracker:
    """Gives track ids (0, 1, 2... by first appearance) to the faces of a video's frames, which come in order.

    Faces are paired with tracks so that the sum of their closeness is largest (Hungarian method). Closeness is overlap
    (intersection over union) plus nearness of the centres plus likeness; pairs beyond the limits of the options are
    excluded. Tracks that had a face in the previous frame are paired first, however much time lies between the frames.
    The faces that are left are paired with lost tracks, for up to `max_gap_s`: so a passer-by does not get the id of
    the person whom he hides. The longer a face is lost, the farther away it may be found. A cut ends all tracks.
    """

    def __init__(self, options: TrackerOptions) -> None:
        self.options = options
        self._tracks: list[_Track] = []
        self._next = 0
        self._updates = 0

    def update(
        self, time_s: float, faces: Faces, looks: NDArray[np.float32], *, cut: bool = False
    ) -> NDArray[np.int32]:
        """int32 [K]: the track of each face; NO_TRACK if it continues none and its score is too low to begin one.

        looks: [K, D], as `ingest.looks` gives them.
        """
        self._updates += 1
        waiting = self.options.max_gap_s
        self._tracks = [
            track
            for track in self._tracks
            if not cut and (track.update == self._updates - 1 or abs(time_s - track.time_s) <= waiting)
        ]
        boxes = faces.boxes.astype(np.float64)
        ids = np.full(len(faces), NO_TRACK, np.int32)
        present, lost = ([t for t in self._tracks if (t.update == self._updates - 1) == seen] for seen in (True, False))
        for tracks in (present, lost):
            free = np.flatnonzero(ids == NO_TRACK)
            for face, track in self._pairs(boxes[free], looks[free], tracks):
                ids[free[face]] = track.id
                track.take(boxes[free[face]], looks[free[face]], time_s, self._updates)
        for new in np.flatnonzero((ids == NO_TRACK) & (faces.scores >= self.options.new_score)):
            ids[new] = self._next
            look = looks[new]
            self._tracks.append(_Track(self._next, boxes[new], np.zeros(2), look, look, time_s, self._updates))
            self._next += 1
        self._tracks = sorted(self._tracks, key=lambda track: track.update)[-MAX_TRACKS:]
        return ids

    def _pairs(
        self, boxes: NDArray[np.float64], looks: NDArray[np.float32], tracks: list[_Track]
    ) -> list[tuple[int, _Track]]:
        """Pairs of a face's index and a track."""
        if not tracks or not len(boxes):
            return []
        known = np.stack([track.expected(self._updates) for track in tracks])
        lost = np.array([self._updates - track.update - 1 for track in tracks])
        reach = self.options.max_shift * np.minimum(1 + WIDER * lost, WIDEST)
        latest, usual = np.stack([track.look for track in tracks]), np.stack([track.usual for track in tracks])
        likeness = np.maximum(looks @ latest.T, looks @ usual.T)
        close = closeness(boxes, known, reach, self.options.max_growth)
        close = np.where((close > 0) & (likeness >= self.options.min_likeness), close + likeness, 0.0)
        from scipy.optimize import linear_sum_assignment  # takes a second to import; the driver does not need it

        rows, columns = linear_sum_assignment(close, maximize=True)
        return [(row, tracks[column]) for row, column in zip(rows, columns, strict=True) if close[row, column] > 0]


def closeness(a: NDArray, b: NDArray, max_shift: float | NDArray, max_growth: float) -> NDArray[np.float64]:
    """Boxes [K, 4] and [T, 4] -> [K, T] in [0, 2]: overlap plus nearness; 0 where they cannot be the same face.

    max_shift: of all, or of each of the T.
    """
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
