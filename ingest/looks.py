"""What a face and its surroundings look like: enough to tell one person from another in neighbouring frames.

It is no description of a person: hair, clothes, background and light count as much as the face does, so it means
nothing in another shot or video. It is never stored.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

VIEW = 1.6  # sides of the region that is looked at, in the longer side of the box
SIDE, COARSE = 32, 8  # pixels of the region, for its colours and for its pattern
CONTRAST = 42.0  # standard deviation that its brightness is brought to, in grey levels around the middle
LEAST_CONTRAST = 4.0  # less is taken for this much: no noise is enlarged to a pattern
LEVELS = 8  # of each colour channel


def looks(rgb: NDArray[np.uint8], boxes: NDArray) -> NDArray[np.float32]:
    """uint8 [H, W, 3] and boxes [K, 4] in its pixels -> unit vectors float32 [K, 705]; their products are likenesses.

    One half is the pattern: a thumbnail of 8x8 pixels. The other is the colours: the square root of their histogram,
    so that products are Bhattacharyya coefficients. In both, brightness and contrast do not matter.
    """
    found = [_look(_region(rgb, box)) for box in np.asarray(boxes, np.float64)]
    return np.stack(found) if found else np.zeros((0, 3 * COARSE**2 + 1 + LEVELS**3), np.float32)


def _region(rgb: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The surroundings of the box, as far as they lie in the picture: uint8 [32, 32, 3]."""
    extent = np.array(rgb.shape[1::-1])
    middle, half = (box[:2] + box[2:]) / 2, VIEW / 2 * (box[2:] - box[:2]).max()
    x0, y0 = np.clip((middle - half).round(), 0, extent - 1).astype(int)
    x1, y1 = np.clip((middle + half).round(), (x0 + 1, y0 + 1), extent).astype(int)
    step = max(1, (y1 - y0) // (4 * SIDE))  # four rows of a large region are enough for one
    return cv2.resize(rgb[y0:y1:step, x0:x1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _look(region: NDArray[np.uint8]) -> NDArray[np.float32]:
    colours = region.astype(np.float32)
    colours = (colours - colours.mean()) * (CONTRAST / max(float(colours.std()), LEAST_CONTRAST))
    # The last value is nearly all of the pattern where there is none, so that two blank regions are alike.
    pattern = np.append(cv2.resize(colours, (COARSE, COARSE), interpolation=cv2.INTER_AREA), CONTRAST)
    pattern /= np.linalg.norm(pattern)
    levels = np.clip((colours + 128) * (LEVELS / 256), 0, LEVELS - 1).astype(np.int64).reshape(-1, 3)
    histogram = np.bincount(levels @ np.array([LEVELS**2, LEVELS, 1]), minlength=LEVELS**3)
    return (np.concatenate([pattern, np.sqrt(histogram / SIDE**2)]) / np.sqrt(2)).astype(np.float32)
