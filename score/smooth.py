"""Averages of predictions over neighbouring frames of a track, for a video that arrives in pieces.

With `box:N` a face gets the mean of its track's predictions in N frames: its own, N // 2 before and (N - 1) // 2 after.
So an even N reaches one frame further back than ahead, as in `scipy.ndimage.uniform_filter1d` and the centred windows
of pandas. The N frames are those of the video, whether the track has a face in them or not. At the ends of a track and
beside its gaps, the mean is of fewer faces.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from common.faces import FaceBatch

MOST_FRAMES = 10_000  # nearly seven minutes at 25 frames/s; memory grows with N
_BOX = re.compile(r"box:([1-9][0-9]{0,8})")


def frames_of(smoothing: str) -> int:
    """The N of `box:N`. Raises ValueError for any other text, and for an N that is not from 2 to `MOST_FRAMES`."""
    match = _BOX.fullmatch(smoothing)
    if match is None or not 2 <= int(match[1]) <= MOST_FRAMES:
        raise ValueError(f"should be box:N, the mean over N frames, with N from 2 to {MOST_FRAMES}")
    return int(match[1])


def _known(smoothing: str) -> str:
    frames_of(smoothing)
    return smoothing


Smoothing = Annotated[str, AfterValidator(_known)]
"""`box:N`, as a type for configurations."""


def smoothed(
    pieces: Iterable[tuple[FaceBatch, NDArray[np.float32]]], smoothing: str
) -> Iterator[tuple[FaceBatch, NDArray[np.float32]]]:
    """The same batches, with their predictions float32 [M, K] averaged over N frames.

    Batches come in order and hold one whole frame or more. Each mean is computed from the values, not from a running
    sum: so it is the same to the last bit, however the video is cut into batches. Holds N frames and one batch.
    """
    frames = frames_of(smoothing)
    waiting: deque[FaceBatch] = deque()
    near = _Near(before=frames // 2, after=(frames - 1) // 2)
    for faces, predictions in pieces:
        waiting.append(faces)
        near.add(faces, predictions)
        while waiting and waiting[0].frame_index[-1] + near.after <= faces.frame_index[-1]:
            yield waiting[0], near.means(waiting[0])
            near.forget(waiting.popleft())
    for faces in waiting:
        yield faces, near.means(faces)


class _Near:
    """The predictions that later means may need: frame [R], track [R], values [R, K], in order of frames."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after
        self._frame = np.zeros(0, np.int64)
        self._track = np.zeros(0, np.int32)
        self._values = np.zeros((0, 0), np.float32)

    def add(self, faces: FaceBatch, predictions: NDArray[np.float32]) -> None:
        self._frame = np.concatenate([self._frame, faces.frame_index[faces.row]])
        self._track = np.concatenate([self._track, faces.track_id])
        held = self._values.reshape(len(self._values), predictions.shape[1])  # before the first batch, K is not known
        self._values = np.concatenate([held, predictions])

    def means(self, faces: FaceBatch) -> NDArray[np.float32]:
        """The mean for each of the batch's faces, float32 [M, K]."""
        result = np.empty((len(faces.row), self._values.shape[1]), np.float32)
        frames = faces.frame_index[faces.row].astype(np.int64)
        for track in np.unique(faces.track_id):
            known = np.flatnonzero(self._track == track)
            values = self._values[known]
            mine = np.flatnonzero(faces.track_id == track)
            first = np.searchsorted(self._frame[known], frames[mine] - self.before)
            end = np.searchsorted(self._frame[known], frames[mine] + self.after, side="right")
            for face, start, stop in zip(mine, first, end, strict=True):
                result[face] = values[start:stop].mean(axis=0, dtype=np.float64)
        return result

    def forget(self, faces: FaceBatch) -> None:
        """Drops the predictions that no mean of a frame after this batch needs."""
        kept = int(np.searchsorted(self._frame, int(faces.frame_index[-1]) + 1 - self.before))
        self._frame, self._track, self._values = self._frame[kept:], self._track[kept:], self._values[kept:]
