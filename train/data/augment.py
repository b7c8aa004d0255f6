"""Random changes of pictures that keep their labels valid, on whole batches of uint8."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from train.models import ranks
from train.stage_options import AugmentOptions

Image = NDArray[np.uint8]
Change = Callable[[Image], Image]

RATIO = 4 / 3  # the longest form of a cut-out, either way
TRIES = 10


def augment(images: NDArray[np.uint8], options: AugmentOptions, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures uint8 [B, C, s, s], or clips of them [B, w, C, s, s] -> the same shape.

    Each picture, or each clip as a whole, gets its own random change. A shift repeats the pixels of the edge. No label
    names a side of the face, so a mirrored face keeps its labels.
    """
    whole, side = ranks.whole(len(images)), images.shape[-1]  # drawn for all processes that share the batch
    planes = images.reshape(len(images), -1, side, side)  # a clip changes as a picture of many channels does
    changes: list[list[Change]] = []
    if options.rotate:
        turns = np.radians(ranks.mine(rng.uniform(-options.rotate, options.rotate, whole)))
        changes.append([partial(_rotated, turn=turn) for turn in turns])
    if options.area is not None:
        draws = ranks.mine(rng.random((whole, TRIES, 4)))
        changes.append([partial(_cut_out, area=options.area, draws=drawn) for drawn in draws])
    if options.shift:
        moves = ranks.mine(rng.integers(-options.shift, options.shift + 1, (2, whole)), axis=1)
        changes.append([partial(_shifted, down=down, right=right) for down, right in moves.T.tolist()])
    if options.flip:
        mirrored = ranks.mine(rng.random(whole)) < 0.5
        changes.append([_mirrored if chosen else _same for chosen in mirrored])
    if options.light:
        gain, offset = 1 + options.light * ranks.mine(rng.uniform(-1, 1, (2, whole, 1)), axis=1)
        changes.append([partial(_lit, table=table) for table in _table(np.arange(256) * gain + 128 * (offset - 1))])
    if options.brightness:
        factors = 1 + options.brightness * ranks.mine(rng.uniform(-1, 1, (whole, 1)))
        changes.append([partial(_lit, table=table) for table in _table(np.arange(256) * factors)])
    out = np.empty(planes.shape, np.uint8)
    for number, image in enumerate(planes):
        for change in changes:
            image = change[number](image)
        out[number] = image
    return out.reshape(images.shape)


def _same(image: Image) -> Image:
    return image


def _mirrored(image: Image) -> Image:
    return np.asarray(cv2.flip(_rows(image), 1), np.uint8).reshape(image.shape)


def _lit(image: Image, table: NDArray[np.uint8]) -> Image:
    """A picture with `table[value]` for each of its values."""
    return np.asarray(cv2.LUT(_rows(image), table), np.uint8).reshape(image.shape)


def _table(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _rows(image: Image) -> Image:
    """A picture [C, s, s] as one of a single channel, [C * s, s]: OpenCV is fast with these."""
    return np.ascontiguousarray(image).reshape(-1, image.shape[-1])


def _shifted(image: Image, down: int, right: int) -> Image:
    """The picture that begins `down` and `right` pixels further on; it repeats the pixels of the edge."""
    side = image.shape[-1]
    rows, columns = (np.clip(np.arange(side) + move, 0, side - 1) for move in (down, right))
    return image.take(rows, axis=1).take(columns, axis=2)


def _rotated(image: Image, turn: float) -> Image:
    """A picture [C, s, s] turned about its middle by `turn` radians: nearest pixels, black where there are none."""
    side = image.shape[-1]
    y, x = np.indices((side, side)) - (side - 1) / 2
    rows = np.rint(x * math.sin(turn) + y * math.cos(turn) + (side - 1) / 2).astype(np.int64)
    columns = np.rint(x * math.cos(turn) - y * math.sin(turn) + (side - 1) / 2).astype(np.int64)
    places = np.stack([columns, rows], axis=2).astype(np.int16)
    out = np.empty(image.shape, np.uint8)
    for turned, plane in zip(out, image, strict=True):
        cv2.remap(plane, places, None, cv2.INTER_NEAREST, turned)
    return out


def _cut_out(image: Image, area: tuple[float, float], draws: NDArray[np.float64]) -> Image:
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
            out = np.empty(image.shape, np.uint8)
            for scaled, plane in zip(out, image, strict=True):
                part = plane[y : y + height, x : x + width]
                cv2.resize(part, (side, side), scaled, interpolation=cv2.INTER_CUBIC)
            return out
    return image
