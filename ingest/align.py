"""Five-point alignment: rotates, scales and cuts every face so that its points lie at the same places of a crop."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from common.crops import TEMPLATE_SIDE, TEMPLATES, Crop

ALIGN_RESULTS = 2  # version of the crops; docs/decisions.md says when to raise it
MOST_SAMPLES = 4096  # along a crop's side; limits the memory that a face as large as an 8K picture takes
ROUNDING = 1e-6  # of a scale
FARTHEST = 1e6  # pixels from the corner: no picture is so large


class Aligner:
    """Cuts faces out of a frame by the similarity (rotation, scale, shift) from their five points to the template."""

    def __init__(self, options: Crop) -> None:
        self.size = options.size
        beyond = TEMPLATE_SIDE * options.margin
        self.template = (TEMPLATES[options.template] + beyond) * (options.size / (TEMPLATE_SIDE + 2 * beyond))

    def __call__(self, rgb: NDArray[np.uint8], landmarks: NDArray) -> NDArray[np.uint8]:
        """rgb: uint8 [H, W, 3]; landmarks: float [K, 5, 2] in pixels of `rgb`, counted from the centre of its first
        pixel -> crops uint8 [K, S, S, 3].

        Each pixel of a crop is resampled once, bilinearly; where the crop shrinks the face, it is the mean of as many
        samples as it takes to be at most one pixel of the frame apart, which prevents aliasing. A crop is black where
        it reaches beyond the frame. Landmarks that are `degenerate` are only shifted to the middle of the crop, without
        rotation or scale.
        """
        crops = [self._cut(rgb, matrix) for matrix in similarity(landmarks, self.template)]
        return np.stack(crops) if crops else np.zeros((0, self.size, self.size, 3), np.uint8)

    def degenerate(self, landmarks: NDArray) -> NDArray[np.bool_]:
        """bool [K]: whether no similarity can be computed from a face's landmarks, see the function of this name."""
        return degenerate(landmarks, self.template)

    def _cut(self, rgb: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
        shrinks = 1 / np.hypot(*matrix[:, 0])
        samples = max(1, min(math.ceil(shrinks - ROUNDING), MOST_SAMPLES // self.size))  # of a pixel, along each side
        # A pixel's centre is at its index: index i of the crop is at samples * i + (samples - 1) / 2 of the fine one.
        fine = matrix * samples + np.array([[0, 0, (samples - 1) / 2]])
        side = self.size * samples
        crop = cv2.warpAffine(rgb, fine, (side, side), flags=cv2.INTER_LINEAR)
        return cv2.resize(crop, (self.size, self.size), interpolation=cv2.INTER_AREA) if samples > 1 else crop


def similarity(points: NDArray, template: NDArray) -> NDArray[np.float64]:
    """Least-squares similarities: points [K, P, 2] onto template [P, 2] -> matrices float64 [K, 2, 3].

    The closed form of Umeyama ("Least-squares estimation of transformation parameters between two point patterns",
    1991). In the plane, a rotation with a scale is one complex factor. It never mirrors. Degenerate points are only
    shifted.
    """
    source, target = _complex(points), _complex(template)
    middle = source.mean(-1)
    factor = np.ones_like(middle)
    fit = ~degenerate(points, template)
    centred = (source - middle[:, None])[fit]
    factor[fit] = (centred.conj() * (target - target.mean())).sum(-1) / (np.abs(centred) ** 2).sum(-1)
    shift = target.mean() - factor * middle
    return np.stack(
        [np.stack([factor.real, -factor.imag, shift.real], -1), np.stack([factor.imag, factor.real, shift.imag], -1)], 1
    )


def degenerate(points: NDArray, template: NDArray) -> NDArray[np.bool_]:
    """bool [K]: whether no similarity onto the template can be computed, for one of three reasons.

    A point is not finite or farther away than any picture reaches; or all points are in one place (their root mean
    square distance from their mean is below a pixel); or they are not arranged like a face (mirrored, crossed), so that
    the best similarity explains less than half of their spread.
    """
    source, target = _complex(points), _complex(template)
    target = target - target.mean()
    centred = source - source.mean(-1, keepdims=True)
    spread = np.sqrt((np.abs(centred) ** 2).mean(-1))
    explained = np.abs((centred.conj() * target).mean(-1)) / np.sqrt((np.abs(target) ** 2).mean())
    return (spread < 1) | (explained < 0.5 * spread)


def _complex(points: NDArray) -> NDArray[np.complex128]:
    """Points [..., P, 2] as complex numbers [..., P]; all P are 0 if one is not finite or beyond `FARTHEST`."""
    points = np.asarray(points, np.float64)
    real = (np.abs(points) < FARTHEST).all((-2, -1))
    points = np.where(real[..., None, None], points, 0.0)
    return points[..., 0] + 1j * points[..., 1]
