"""A video by PyAV: which stream, which frames in which order at which time, and how they become upright RGB pictures.

Runs in the decoder child only: FFmpeg sees hostile bytes here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

MAX_ASPECT = 10  # a pixel longer than this is a lie in the header
MAX_RATE = 1000  # as is a higher frame rate
DEFAULT_PERIOD_S = 0.04  # of a stream that states no rate
BT2020_CONSTANT, BT2020, UNSPECIFIED = 10, 9, 2  # FFmpeg's AVColorSpace


class Refusal(Exception):
    """The video cannot be decoded (further): (reason, message)."""


class Source:
    """The video stream that FFmpeg calls best, decoded in order; the authority on count, order and time."""

    def __init__(self, path: str, demuxer: str, max_pixels: int) -> None:
        self.path = path
        try:
            # The demuxer is the one whose magic bytes were found: nothing is sniffed, no playlist is followed.
            self.container = av.open(
                path, format=demuxer, options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        except MemoryError as error:
            raise Refusal("memory_limit", "opening the file needs more memory than is allowed") from error
        except (av.FFmpegError, ValueError) as error:
            raise Refusal("unreadable", f"the container cannot be read: {_text(error)}") from error
        self.stream = self._choose()
        context = self.stream.codec_context
        if context is None:
            raise Refusal("unreadable", "there is no decoder for its video codec")
        if "enc_key_id" in self.stream.metadata:  # Matroska's and WebM's encryption
            raise Refusal("encrypted", "the video stream is encrypted")
        if context.width * context.height > max_pixels:
            raise Refusal("too_large", f"pictures of {context.width}x{context.height} exceed {max_pixels} pixels")
        context.thread_count = 1
        context.options = {"max_pixels": str(max_pixels)}
        start = self.container.start_time
        self.start_s: float = start / av.time_base if start is not None else 0.0
        rates = (self.stream.average_rate, self.stream.guessed_rate)
        self.rate: float | None = next((float(rate) for rate in rates if rate and 0 < rate <= MAX_RATE), None)
        self.period_s = 1 / self.rate if self.rate else DEFAULT_PERIOD_S
        self.packets = self.damaged = self.frames = 0
        self.first_s = self.last_s = self.end_s = 0.0
        self._trouble = ""

    def _choose(self) -> Any:
        best = self.container.streams.best("video")
        streams = [best, *self.container.streams.video] if best is not None else []
        for stream in streams:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kinds = ", ".join(sorted({stream.type for stream in self.container.streams})) or "nothing"
        raise Refusal("no_video_stream", "the file has no video stream, only " + ("a cover" if streams else kinds))

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """(time_s, frame) in presentation order; what FFmpeg's own command skips is skipped and counted."""
        for packet in self._demux():
            self.packets += packet.size > 0
            try:
                frames = packet.decode()
            except MemoryError as error:
                raise Refusal("memory_limit", "decoding needs more memory than is allowed") from error
            except av.FFmpegError as error:
                self._damage(error)
                continue
            for frame in frames:
                yield self._time(frame), frame

    def _demux(self) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream)
        except MemoryError as error:
            raise Refusal("memory_limit", "reading the file needs more memory than is allowed") from error
        except av.FFmpegError as error:
            self._damage(error)
            flush = av.Packet()  # the frames that the decoder still holds
            flush.stream = self.stream
            yield flush

    def _damage(self, error: Exception) -> None:
        self.damaged += 1
        self._trouble = self._trouble or _text(error)

    def _time(self, frame: Any) -> float:
        """The frame's PTS on the container's clock. A frame without one, or with one that does not follow the frame
        before it (a recording joined from two), is taken to come right after that: times always ascend."""
        base: Fraction = frame.time_base or self.stream.time_base
        seconds = self.end_s if self.frames else 0.0
        if frame.pts is not None:
            stated = frame.pts * base.numerator / base.denominator - self.start_s
            seconds = stated if stated > self.last_s or not self.frames else seconds
        self.first_s = self.first_s if self.frames else seconds
        self.last_s = seconds
        self.end_s = seconds + (float(frame.duration * base) if frame.duration else self.period_s)
        self.frames += 1
        return seconds

    def verdict(self) -> tuple[str | None, str | None]:
        """(reason, message) of how it ended; both None when the whole file was decoded."""
        if self.damaged:
            count = f"{self.damaged} of {self.packets} packets could not be decoded"
            return "decode_error", f"{count}: {self._trouble}"
        index = self.stream.index_entries
        if len(index) and index[-1].pos + index[-1].size > self.container.size:
            of = f"{self.frames} of {self.stream.frames}" if self.stream.frames else f"only {self.frames}"
            reason = "decode_error" if self.frames else "unreadable"
            return reason, f"the file is cut short: {of} frames are there"
        if not self.frames:
            return "unreadable", "the file describes a video but holds no frame of it"
        return None, None


class Easel:
    """Turns decoded frames into upright RGB pictures of one size, that of the first, with square pixels."""

    def __init__(self, source: Source, first: Any, max_pixels: int) -> None:
        self._reformatter = VideoReformatter()
        transpose, _, _, self.rotation = orientation(first)
        width, height = first.width, first.height
        self.source_size = (height, width) if transpose else (width, height)
        aspect = source.stream.sample_aspect_ratio or Fraction(1)
        if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:  # the short side is stretched: no pixel is lost
            width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        if width * height > max_pixels:
            raise Refusal("too_large", f"pictures of {width}x{height} exceed {max_pixels} pixels")
        self.width, self.height = (height, width) if transpose else (width, height)

    def draw(self, frame: Any, target: np.ndarray) -> None:
        """`frame` into `target`, uint8 [height, width, 3]."""
        transpose, flip_x, flip_y, _ = orientation(frame)
        width, height = (self.height, self.width) if transpose else (self.width, self.height)
        plane = self._convert(frame, width, height).planes[0]
        # A pixel as one item of three bytes: turning a picture is then three times as fast.
        pixels = np.ndarray((height, width), "V3", buffer=plane, strides=(plane.line_size, 3))
        pixels = pixels.T if transpose else pixels
        pixels = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        np.copyto(target.view("V3")[..., 0], pixels)

    def _convert(self, frame: Any, width: int, height: int) -> Any:
        """By swscale, with the frame's own matrix and range; an untagged one is BT.601, limited, as FFmpeg has it."""
        how = Interpolation.BILINEAR if (width, height) == (frame.width, frame.height) else Interpolation.BICUBIC

        def convert() -> Any:
            return self._reformatter.reformat(
                frame, width, height, "rgb24", interpolation=how, dst_color_range=ColorRange.JPEG, threads=1
            )

        try:
            return convert()
        except OSError:
            # swscale knows no YCgCo, ICtCp or constant-luminance matrix; BT.2020's other one is close to the last.
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


def _text(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:200]
