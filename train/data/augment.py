"""Random changes of pictures that keep their labels valid, on whole batches of uint8."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from train.models import ranks
from train.stage_options import AugmentOptions

RATIO = 4 / 3  # the longest form of a cut-out, either way
TRIES = 10


def augment(images: NDArray[np.uint8], options: AugmentOptions, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures uint8 [B, C, s, s], or clips of them [B, w, C, s, s] -> the same shape.

    Each picture, or each clip as a whole, gets its own random change. A shift repeats the pixels of the edge. No label
    names a side of the face, so a mirrored face keeps its labels.
    """
    count, side = len(images), images.shape[-1]
    whole = ranks.whole(count)  # drawn for all processes that share the batch
    shape = images.shape
    images = images.reshape(count, -1, side, side)  # all frames of a clip change alike, as channels of one picture do
    if options.rotate:
        turns = np.radians(ranks.mine(rng.uniform(-options.rotate, options.rotate, whole)))
        images = np.stack([_rotated(image, turn) for image, turn in zip(images, turns, strict=True)])
    if options.area is not None:
        draws = ranks.mine(rng.random((whole, TRIES, 4)))
        images = np.stack([_cut_out(image, options.area, drawn) for image, drawn in zip(images, draws, strict=True)])
    if options.shift:
        moves = ranks.mine(rng.integers(-options.shift, options.shift + 1, (2, whole, 1)), axis=1)
        rows, columns = np.minimum(np.maximum(np.arange(side) + moves, 0), side - 1)
        images = images[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    if options.flip:
        mirrored = ranks.mine(rng.random(whole)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
    if options.light:
        gain, offset = 1 + options.light * ranks.mine(rng.uniform(-1, 1, (2, whole, 1, 1, 1)), axis=1)
        images = np.clip(np.rint(images * gain + 128 * (offset - 1)), 0, 255).astype(np.uint8)
    if options.brightness:
        factors = 1 + options.brightness * ranks.mine(rng.uniform(-1, 1, (whole, 1)))
        tables = np.clip(np.rint(np.arange(256) * factors), 0, 255).astype(np.uint8)
        brighter = [cv2.LUT(image.reshape(-1, side), table) for image, table in zip(images, tables, strict=True)]
        images = np.stack(brighter)
    return np.ascontiguousarray(images).reshape(shape)


def _rotated(image: NDArray[np.uint8], turn: float) -> NDArray[np.uint8]:
    """A picture [C, s, s] turned about its middle by `turn` radians: nearest pixels, black where there are none."""
    side = image.shape[-1]
    y, x = np.indices((side, side)) - (side - 1) / 2
    rows = np.rint(x * math.sin(turn) + y * math.cos(turn) + (side - 1) / 2).astype(np.int64)
    columns = np.rint(x * math.cos(turn) - y * math.sin(turn) + (side - 1) / 2).astype(np.int64)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return image[:, rows.clip(0, side - 1), columns.clip(0, side - 1)] * inside


def _cut_out(image: NDArray[np.uint8], area: tuple[float, float], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A random part of a picture [C, s, s] as a picture of the same size, bicubic as in MAE's code.

    Its share of the area is uniform in `area`, the logarithm of its width to its height uniform within `RATIO`; a part
    that does not fit is drawn again, and after all draws the whole picture stays (torchvision's RandomResizedCrop).
    draws: [tries, 4], uniform in [0, 1): of share, ratio and place.
    """
    side = image.shape[-1]
    for of_share, of_ratio, of_x, of_y in draws:
        share, ratio = area[0] + (area[1] - area[0]) * of_share, RATIO ** (2 * of_ratio - 1)
        width, height = round(side * math.sqrt(share * ratio)), round(side * math.sqrt(share / ratio))
        if 0 < width <= side and 0 < height <= side:
            x, y = int(of_x * (side - width + 1)), int(of_y * (side - height + 1))
            part = np.ascontiguousarray(image[:, y : y + height, x : x + width].transpose(1, 2, 0))
            scaled = cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)
            return scaled.reshape(side, side, -1).transpose(2, 0, 1)
    return image
