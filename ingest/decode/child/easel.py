"""Turns decoded frames into upright RGB pictures with square pixels. Runs in the decoder child only."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation, VideoReformatter

from ingest.decode.child.source import Refusal

MAX_ASPECT = 10  # a header that states longer pixels is wrong
BT2020_CONSTANT, BT2020, UNSPECIFIED = 10, 9, 2  # FFmpeg's AVColorSpace
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ and HLG (ITU-R BT.2100)
SDR = {"dst_color_trc": ColorTrc.IEC61966_2_1, "dst_color_primaries": ColorPrimaries.BT709}  # sRGB


class Easel:
    """Draws pictures of one size, that of the first frame. Frames of another shape are scaled to fit, on black."""

    def __init__(self, pixel_aspect: Fraction | None, first: Any, max_pixels: int) -> None:
        """`pixel_aspect`: width / height of a coded pixel; `first`: av.VideoFrame. Refusal: it is too large."""
        self._reformatter = VideoReformatter()
        aspect = pixel_aspect or Fraction(1)
        self._aspect = aspect if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)
        transpose, flip_x, flip_y, self.rotation = orientation(first)
        self.mirrored = transpose ^ flip_x ^ flip_y
        self._shape = first.width, first.height, transpose
        self.source_size = (first.height, first.width) if transpose else (first.width, first.height)
        self.width, self.height = self._upright(first, transpose)
        if self.width * self.height > max_pixels:
            raise Refusal("too_large", f"pictures of {self.width}x{self.height} exceed {max_pixels} pixels")

    def _upright(self, frame: Any, transpose: bool) -> tuple[int, int]:
        """Width and height of a frame's picture: pixels are stretched along their short side, so no detail is lost."""
        width, height = frame.width, frame.height
        if self._aspect > 1:
            width = round(width * self._aspect)
        else:
            height = round(height / self._aspect)
        return (height, width) if transpose else (width, height)

    def draw(self, frame: Any, target: np.ndarray) -> None:
        """Draws `frame` into `target`, uint8 [height, width, 3]."""
        transpose, flip_x, flip_y, _ = orientation(frame)
        canvas = target.view("V3")[..., 0]  # one item of three bytes per pixel: transposing is then three times as fast
        if (frame.width, frame.height, transpose) != self._shape:
            canvas = self._middle(canvas, *self._upright(frame, transpose))
        height, width = canvas.T.shape if transpose else canvas.shape
        plane = self._convert(frame, width, height).planes[0]
        pixels = np.ndarray((height, width), "V3", buffer=plane, strides=(plane.line_size, 3))
        pixels = pixels.T if transpose else pixels
        np.copyto(canvas, pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    def _middle(self, canvas: np.ndarray, width: int, height: int) -> np.ndarray:
        """Paints the canvas black; returns the part [height, width] that a picture of this shape fills."""
        canvas[:] = np.zeros((), canvas.dtype)
        scale = min(self.width / width, self.height / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self.width - width) // 2, (self.height - height) // 2
        return canvas[top : top + height, left : left + width]

    def _convert(self, frame: Any, width: int, height: int) -> Any:
        """Converts to RGB by swscale, with the frame's own matrix and range; untagged ones are BT.601, limited range.

        HDR becomes sRGB: its reference white (203 nit, ITU-R BT.2408) becomes white, brighter values are clipped.
        """
        how = Interpolation.BILINEAR if (width, height) == (frame.width, frame.height) else Interpolation.BICUBIC
        colours = SDR if frame.color_trc in HDR else {}

        def convert() -> Any:
            return self._reformatter.reformat(
                frame, width, height, "rgb24", interpolation=how, dst_color_range=ColorRange.JPEG, threads=1, **colours
            )

        try:
            return convert()
        except OSError:
            # swscale has no YCgCo, ICtCp or constant-luminance matrix. BT.2020's usual matrix is close to the last.
            frame.colorspace = BT2020 if frame.colorspace == BT2020_CONSTANT else UNSPECIFIED
            return convert()


def orientation(frame: Any) -> tuple[bool, bool, bool, int]:
    """(transpose, then flip x, flip y; clockwise degrees) of the frame's display matrix, to the nearest right angle.

    The matrix maps (x, y) to (ax + cy, bx + dy), y downwards (ISO/IEC 14496-12, 8.3.2; FFmpeg's display.h).
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False, 0
    matrix = memoryview(bytes(data)).cast("i")
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirror = -1 if a * d - b * c < 0 else 1
    transpose = abs(b) > abs(a)
    flip_x, flip_y = (c < 0, b < 0) if transpose else (a < 0, d < 0)
    degrees = round(math.degrees(math.atan2(mirror * b, mirror * a)) / 90) * 90 % 360
    return transpose, flip_x, flip_y, degrees
