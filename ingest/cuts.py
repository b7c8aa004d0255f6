"""Finds where shots begin, by comparing each frame with those around it, so that no track runs into another shot."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # of the thumbnail
CHANGED = 5.0  # least mean difference of two thumbnails of different shots, in grey levels
# A cut:
NEAR = 4  # frames on either side that are looked at: what is shown for fewer is a flash
OUTSTANDING = 1.9  # least change, in mean changes between neighbouring frames on the side where they are larger
ALIKE = 0.9  # highest correlation of the brightness of its two frames: a light that is switched on gives more
# A dissolve:
FAR = 12  # frames on either side that are looked at
MIXED_ALIKE = 0.8  # highest correlation of the brightness of the frames at both ends
CONTRAST = 5.0  # least standard deviation of the brightness of both ends: in a fade, one is black or white
STEP = 0.3  # most of the way from one end to the other that a frame goes
RESIDUE = 0.35  # most of the change between the ends by which a frame between them differs from a mixture of both
LONGEST = 48  # frames; no other dissolve is found sooner


class CutFinder:
    """Takes a video's frames in order and tells of each whether a new shot begins there, `FAR - 1` frames later.

    A cut changes the picture more than neighbouring frames around it differ (the idea of PySceneDetect's adaptive
    detector), which a pan does not; and no frame before it is like one after it, which is not so at a flash. A dissolve
    is a stretch of frames that are all mixtures of its two ends; the new shot begins where it has half the weight.
    Keeps 2 `FAR` thumbnails.
    """

    def __init__(self) -> None:
        self._thumbnails: deque[NDArray[np.float32]] = deque(maxlen=2 * FAR)
        self._seen = self._told = 0
        self._dissolved = -LONGEST  # the frame where the latest dissolve was found

    def see(self, rgb: NDArray[np.uint8]) -> list[bool]:
        """rgb: uint8 [N, H, W, 3], the next frames -> the answers that have become certain, in order of frames.

        The first frame of a video begins no shot.
        """
        told = []
        for frame in rgb:
            step = max(1, len(frame) // (4 * SIDE))  # four rows of a large frame are enough for one
            thumbnail = cv2.resize(frame[::step], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            self._thumbnails.append(thumbnail.astype(np.float32))
            self._seen += 1
            if self._seen - self._told == FAR:
                told.append(self._tell())
        return told

    def end(self) -> list[bool]:
        """The answers for the frames that are left."""
        return [self._tell() for _ in range(self._seen - self._told)]

    def _tell(self) -> bool:
        thumbnails = list(self._thumbnails)
        at = self._told - (self._seen - len(thumbnails))
        before, after = thumbnails[:at], thumbnails[at:]
        dissolved = self._told - self._dissolved >= LONGEST and _is_dissolve(before, after)
        self._dissolved = self._told if dissolved else self._dissolved
        self._told += 1
        return dissolved or _is_cut(before[-NEAR:], after[:NEAR])


def _is_cut(before: list[NDArray[np.float32]], after: list[NDArray[np.float32]]) -> bool:
    if not before or _change(before[-1], after[0]) < CHANGED or _correlation(before[-1], after[0]) > ALIKE:
        return False
    change = min(_change(a, b) for a in before for b in after)
    around = max(_mean_change(before), _mean_change(after))
    return change >= max(CHANGED, OUTSTANDING * around)


def _is_dissolve(before: list[NDArray[np.float32]], after: list[NDArray[np.float32]]) -> bool:
    if not len(before) == len(after) == FAR:
        return False
    first, last = before[0], after[-1]
    change = _change(first, last)
    if change < CHANGED or _correlation(first, last) > MIXED_ALIKE:
        return False
    if min(first.mean(-1).std(), last.mean(-1).std()) < CONTRAST:
        return False
    between = np.stack([*before, *after]) - first
    way = last - first
    weight = (between * way).sum((1, 2, 3)) / (way**2).sum()  # of the last frame
    residue = np.abs(between - weight[:, None, None, None] * way).mean((1, 2, 3)).max()
    return bool(weight[FAR - 1] < 0.5 <= weight[FAR] and np.diff(weight).max() <= STEP and residue <= RESIDUE * change)


def _mean_change(side: list[NDArray[np.float32]]) -> float:
    """Between neighbouring frames; 0 if there is one frame alone."""
    return sum(_change(a, b) for a, b in pairwise(side)) / max(1, len(side) - 1)


def _change(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).mean())


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of the brightness of two thumbnails; 0 if one is of one brightness throughout, 1 if both are."""
    x, y = (each.mean(-1) for each in (a, b))
    x, y = x - x.mean(), y - y.mean()
    flat = [float(each.std()) < 1 for each in (x, y)]
    if any(flat):
        return float(all(flat))
    return float((x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)))
