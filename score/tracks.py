"""The faces of one video as windows: one sequence for each track, and a new one after each long gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.faces import FaceBatch
from common.windows import Windowing, breaks
from score.sequences import Sequence, Window


@dataclass
class _Track:
    sequence: Sequence
    time_s: float  # of its latest face


class Tracks:
    """Takes batches of faces and gives windows, for heads of one windowing. Holds the tracks that may still go on."""

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._tracks: dict[int, _Track] = {}
        self._clock = -np.inf

    def push(self, faces: FaceBatch, features: NDArray[np.float32], slot: int) -> Iterator[Window]:
        """The windows that these faces fill, and the last windows of the tracks that are over.

        features float32 [M, D], one for each face; `slot` is the running number of the first face.
        """
        if not len(faces.frame_index):
            return
        # Windows need times that never decrease, whatever the file says; the rows keep the file's times.
        clock = np.maximum.accumulate(np.append(self._clock, faces.time_s))[1:]
        self._clock = float(clock[-1])
        for track_id in np.unique(faces.track_id).tolist():
            rows = np.flatnonzero(faces.track_id == track_id)
            yield from self._follow(track_id, clock[faces.row[rows]], features[rows], slot + rows)
        for track_id, track in list(self._tracks.items()):
            if self._breaks(np.array([track.time_s, self._clock]))[0]:
                del self._tracks[track_id]
                yield track.sequence.close()

    def close(self) -> Iterator[Window]:
        """The last windows of all tracks."""
        for track in self._tracks.values():
            yield track.sequence.close()

    def _follow(
        self, track_id: int, times: NDArray, features: NDArray[np.float32], slots: NDArray[np.int64]
    ) -> Iterator[Window]:
        """One track's next faces: times [m], features [m, D], slots [m]. A long gap starts a new sequence."""
        track = self._tracks.get(track_id)
        gaps = self._breaks(np.append([] if track is None else track.time_s, times))
        fresh = np.append(True, gaps) if track is None else gaps
        for number, piece in enumerate(np.split(np.arange(len(times)), np.flatnonzero(fresh))):
            if number:
                if track is not None:
                    yield track.sequence.close()
                track = _Track(Sequence(self._windowing, float(times[piece[0]])), 0.0)
            if track is not None and len(piece):
                yield from track.sequence.push(times[piece], features[piece], slots[piece])
        assert track is not None
        track.time_s = float(times[-1])
        self._tracks[track_id] = track

    def _breaks(self, times: NDArray) -> NDArray[np.bool_]:
        return breaks(times, self._windowing.window, self._windowing.fps)
