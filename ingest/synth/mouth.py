"""Opens a mouth that was photographed closed: moves the lips apart and paints the inside between them.

Coordinates as in `facewarp`: eye distances, y down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]

OPENING = {"au25": 0.09, "au26": 0.22}
"""Distance between the lips at the middle of the mouth, by action unit."""
_UP, _DOWN = 0.25, 0.75
"""The upper and the lower lip's share of the opening."""
_REACH_UP, _REACH_DOWN = 0.25, 0.35
"""Distance from the lips over which the movement of the skin decays."""
_TEETH_HEIGHT = 0.055
_GUMS, _TEETH = np.array([52, 20, 20], np.float32), np.array([214, 204, 186], np.float32)


def lip_line(points: Mapping[str, Point], x: np.ndarray) -> np.ndarray:
    """y of the line between the closed lips: a parabola through the corners and the middle of the mouth."""
    (xl, yl), (xm, ym), (xr, yr) = (points[name] for name in ("corner_left", "lip_line", "corner_right"))
    a = (x - xm) * (x - xr) / ((xl - xm) * (xl - xr)) * yl
    b = (x - xl) * (x - xr) / ((xm - xl) * (xm - xr)) * ym
    c = (x - xl) * (x - xm) / ((xr - xl) * (xr - xm)) * yr
    return a + b + c


def between_corners(points: Mapping[str, Point], x: np.ndarray) -> np.ndarray:
    """1 at the middle of the mouth, falling to 0 at the corners and beyond."""
    left, right = points["corner_left"][0], points["corner_right"][0]
    return np.clip(1 - ((2 * x - left - right) / (right - left)) ** 2, 0, 1)


@dataclass(frozen=True)
class Inside:
    """What is visible between open lips: alpha [H, W] in [0, 1] of the mouth's inside, and of the upper teeth in it."""

    cover: np.ndarray
    teeth: np.ndarray

    def paint(self, rgb: np.ndarray) -> None:
        """Paints it over `rgb` (uint8 [H, W, 3]), in place."""
        rows = np.flatnonzero(self.cover.any(axis=1))
        box = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0)
        colour = _GUMS + self.teeth[box, :, None] * (_TEETH - _GUMS)
        cover = self.cover[box, :, None]
        rgb[box] = rgb[box] * (1 - cover) + colour * cover


def part_lips(at: np.ndarray, points: Mapping[str, Point], opening: float, pixel: float) -> tuple[np.ndarray, Inside]:
    """Opens the mouth of a face by `opening` eye distances.

    at: float32 [H, W, 2], the place on the closed face that each pixel's skin comes from. Returns float32 [H, W], the
    correction of its y for the open mouth, and what is visible between the lips. `pixel`: size of a pixel, for smooth
    edges.
    """
    x, y = at[..., 0], at[..., 1]
    across = between_corners(points, x)
    gap = opening * across**0.7
    upper, lower = gap * _UP, gap * _DOWN
    t = y - lip_line(points, x)
    above, below = np.maximum(-t - upper, 0), np.maximum(t - lower, 0)
    shift = np.where(
        t < 0,
        np.minimum(upper * np.exp(-above / _REACH_UP), np.maximum(-t, 0)),
        np.maximum(-lower * np.exp(-below / _REACH_DOWN), -np.maximum(t, 0)),
    )
    cover = np.clip(np.minimum(t + upper, lower - t) / pixel + 0.5, 0, 1) * (gap > pixel / 4)
    teeth = np.clip((_TEETH_HEIGHT - t - upper) / pixel, 0, 1) * np.clip(across * 3 - 1.2, 0, 1)
    return shift, Inside(cover, teeth)
