"""How well tracks follow people: against truth by hand, and beside two plain trackers as second opinions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

NOBODY = -1


@dataclass(frozen=True)
class Verdict:
    """Of the faces of known people: how many, changes of a person's id from one of his faces to the next, ids that a
    person has beyond his first, ids that hold more than one person, and IDF1 (Ristani et al., 2016)."""

    faces: int
    switches: int
    fragments: int
    mixed: int
    idf1: float


def judged(people: Sequence[np.ndarray], ids: Sequence[np.ndarray]) -> Verdict:
    """people, ids: for each frame int [K], who each face is (`NOBODY`: not known) and its track (below 0: none).

    A face without a track is a miss in IDF1 and nothing else.
    """
    who, track = np.concatenate(people), np.concatenate(ids)
    who, track = who[who != NOBODY], track[who != NOBODY]
    runs = [[t for t in track[who == person].tolist() if t >= 0] for person in np.unique(who)]
    switches = sum(a != b for run in runs for a, b in pairwise(run))
    tracks = np.unique(track[track >= 0])
    shared = np.array([[((who == p) & (track == t)).sum() for t in tracks] for p in np.unique(who)])
    right = shared[linear_sum_assignment(shared, maximize=True)].sum()
    return Verdict(
        faces=len(who),
        switches=switches,
        fragments=sum(len(set(run)) - 1 for run in runs if run),
        mixed=int(((shared > 0).sum(0) > 1).sum()),
        idf1=float(2 * right / (len(who) + (track >= 0).sum())),
    )


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Boxes [K, 4] and [T, 4] -> [K, T]."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1][None] - common)


class IouTracker:
    """Pairs boxes by overlap alone, with the last box of each track; a cut means nothing to it."""

    def __init__(self, *, least: float = 0.3, patience: int = 25) -> None:
        self.least, self.patience = least, patience
        self.boxes: dict[int, np.ndarray] = {}
        self.missed: dict[int, int] = {}
        self.next = 0

    def expected(self, track: int) -> np.ndarray:
        return self.boxes[track]

    def paired(self, track: int, box: np.ndarray) -> None:
        self.boxes[track] = box

    def update(self, boxes: np.ndarray) -> np.ndarray:
        """float [K, 4] -> int [K]."""
        ids = np.full(len(boxes), -1)
        known = list(self.boxes)
        if known and len(boxes):
            overlap = iou(boxes, np.stack([self.expected(track) for track in known]))
            for face, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
                if overlap[face, column] >= self.least:
                    ids[face] = known[column]
        for face in np.flatnonzero(ids < 0):
            ids[face], self.next = self.next, self.next + 1
        for face, track in enumerate(ids.tolist()):
            self.paired(track, boxes[face])
        self.missed = {track: 0 if track in ids else self.missed[track] + 1 for track in self.boxes}
        for track in [track for track, missed in self.missed.items() if missed > self.patience]:
            del self.boxes[track]
        return ids


class KalmanTracker(IouTracker):
    """SORT (Bewley et al., "Simple Online and Realtime Tracking", 2016): as above, with the box that a Kalman filter of
    constant velocity expects. State: centre, area, ratio of the sides, and the velocities of the first three."""

    MOVE = np.eye(7) + np.eye(7, k=4)
    SEE = np.eye(4, 7)
    NOISE = np.diag([1, 1, 1, 1, 1e-2, 1e-2, 1e-4])
    DOUBT = np.diag([1.0, 1, 10, 10])

    def __init__(self, *, least: float = 0.3, patience: int = 25) -> None:
        super().__init__(least=least, patience=patience)
        self.states: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def update(self, boxes: np.ndarray) -> np.ndarray:
        for track, (state, spread) in self.states.items():
            if state[2] + state[6] <= 0:
                state[6] = 0
            self.states[track] = self.MOVE @ state, self.MOVE @ spread @ self.MOVE.T + self.NOISE
        ids = super().update(boxes)
        self.states = {track: state for track, state in self.states.items() if track in self.boxes}
        return ids

    def expected(self, track: int) -> np.ndarray:
        x, y, area, ratio = self.states[track][0][:4]
        width = np.sqrt(max(area * ratio, 1e-6))
        height = area / width
        return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])

    def paired(self, track: int, box: np.ndarray) -> None:
        super().paired(track, box)
        width, height = box[2:] - box[:2]
        seen = np.array([*(box[:2] + box[2:]) / 2, width * height, width / height])
        if track not in self.states:
            self.states[track] = np.append(seen, np.zeros(3)), np.diag([10.0, 10, 10, 10, 1e4, 1e4, 1e4])
            return
        state, spread = self.states[track]
        gain = spread @ self.SEE.T @ np.linalg.inv(self.SEE @ spread @ self.SEE.T + self.DOUBT)
        self.states[track] = state + gain @ (seen - self.SEE @ state), (np.eye(7) - gain @ self.SEE) @ spread
