"""Random changes of pictures that keep their labels valid, on whole batches of uint8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.recipe import AugmentOptions


def augment(images: NDArray[np.uint8], options: AugmentOptions, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 [B, C, s, s] -> the same shape; each picture gets its own random change.

    A shift repeats the pixels of the edge. No label names a side of the face, so a mirrored face keeps its labels.
    """
    count, side = len(images), images.shape[-1]
    if options.shift:
        moves = rng.integers(-options.shift, options.shift + 1, (2, count, 1))
        rows, columns = np.minimum(np.maximum(np.arange(side) + moves, 0), side - 1)
        images = images[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    if options.flip:
        mirrored = rng.random(count) < 0.5
        images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
    if options.light:
        gain, offset = 1 + options.light * rng.uniform(-1, 1, (2, count, 1, 1, 1))
        images = np.clip(np.rint(images * gain + 128 * (offset - 1)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(images)
