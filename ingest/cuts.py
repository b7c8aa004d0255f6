"""Finds cuts by comparing thumbnails of neighbouring frames, so that no track runs across a cut."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # of the thumbnail
BINS = 16  # of a colour channel's histogram
# A cut raises both measures. A fast pan raises only the first; a light that is switched on, mostly the second.
MOVED = 35.0  # mean difference of the thumbnails, in grey levels
RECOLOURED = 0.2  # share of the thumbnail whose colour class changed


class CutFinder:
    """Takes a video's frames in order and tells for each whether a new shot begins there. Keeps one thumbnail."""

    def __init__(self) -> None:
        self._last: tuple[NDArray, NDArray] | None = None

    def __call__(self, rgb: NDArray[np.uint8]) -> bool:
        """rgb: uint8 [H, W, 3]. False for the first frame of a video."""
        thumbnail = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        classes = thumbnail.reshape(-1, 3) // (256 // BINS) + BINS * np.arange(3)
        histogram = np.bincount(classes.ravel(), minlength=3 * BINS)
        last, self._last = self._last, (thumbnail.astype(np.int16), histogram)
        if last is None:
            return False
        moved = np.abs(self._last[0] - last[0]).mean()
        recoloured = np.abs(histogram - last[1]).sum() / (2 * classes.size)
        return bool(moved >= MOVED and recoloured >= RECOLOURED)
