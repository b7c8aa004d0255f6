"""Five-point alignment: every face turned, scaled and cut to the same place of a square crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FaceBatch:
    """Neighbouring frames, with or without faces, and the faces in them, in order of frame and track.

    frame_index: int32 [F]; time_s: float64 [F]: every frame.
    row: int32 [M], which of the F frames a face is in; track_id: int32 [M]; box: float32 [M, 4]; landmarks: float32
    [M, 5, 2] (in the order of `ingest.detect.Faces`); both in pixels of the upright source picture. score: float32 [M].
    status: str [M], "ok" or "low_quality". crops: uint8 [M, S, S, 3], aligned, RGB.
    """

    frame_index: NDArray[np.int32]
    time_s: NDArray[np.float64]
    row: NDArray[np.int32]
    track_id: NDArray[np.int32]
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: NDArray[np.float32]
    status: NDArray[np.str_]
    crops: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame_index)
