"""A video's frames: upright, with square pixels, in order, each with its index and time. Decoded in a child process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from common.errors import VideoError
from ingest import probe
from ingest.sandbox import CHILD, Limits, Sandbox, sense

RING_SLOTS = 3  # one with the consumer, one waiting, one being filled


class DecodeOptions(BaseModel):
    """How to decode. `decoder` and `every` change what is seen; the rest are limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: Literal["pyav", "decord"] = Field(default="pyav", description="where pixels come from")
    every: int = Field(default=1, ge=1, description="give one frame in so many")
    batch_frames: int = Field(default=16, ge=1, le=256, description="most frames of a batch")
    ring_bytes: int = Field(
        default=96 << 20, ge=1, description="shared memory for frames; always room for three of them"
    )
    max_pixels: int = Field(default=8192 * 4320, ge=1, description="largest picture")
    memory_bytes: int = Field(default=2 << 30, ge=256 << 20, description="most memory of the decoder process")
    stall_s: float = Field(default=30.0, gt=0, description="longest wait for the next frames")
    start_s: float = Field(default=60.0, gt=0, description="longest wait in all, to which each frame adds 2 s")


@dataclass(frozen=True)
class VideoFacts:
    """What a video is. `width` and `height` are of the coded picture, turned upright, before pixels are made square:
    a box found in `rgb` is in source pixels after x * width / rgb.shape[2] and y * height / rgb.shape[1].

    `rotation` is the clockwise turn that was applied, in degrees; `fps` and `stated_frames` are the container's word,
    None where it gives none.
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float | None
    rotation: int
    stated_frames: int | None


@dataclass(frozen=True)
class FrameBatch:
    """Neighbouring frames. `rgb` lies in memory shared with the decoder and is overwritten after the next batch is
    asked for: copy what must live longer.

    rgb: uint8 [N, H, W, 3], upright, square pixels, full-range sRGB-coded values; H and W are the same in all batches.
    frame_index: int32 [N], from 0 in presentation order. time_s: float64 [N], PTS minus the container's start time.
    """

    rgb: np.ndarray
    frame_index: np.ndarray
    time_s: np.ndarray

    def __len__(self) -> int:
        return len(self.frame_index)


@dataclass(frozen=True)
class Ending:
    """How decoding ended: `status` ok, or partial with a reason of `common.schema.REASONS` and a sentence.

    `frames` counts the frames that were given; `duration_s` runs from the first frame's time to the end of the last.
    """

    status: Literal["ok", "partial"]
    reason: str | None
    message: str | None
    frames: int
    duration_s: float | None


class VideoReader:
    """Iterate once for the batches; `outcome` is there when they have ended.

    `decoder` is what gave the pixels: "pyav", "decord", or "decord+pyav" where decord failed part of the way, of which
    `fallback` tells why.
    """

    def __init__(self, video_fd: int, demuxer: str, options: DecodeOptions, child: Path = CHILD) -> None:
        self._options = options
        self._child = child
        self._demuxer = demuxer
        self._next_index = 0
        self._drawing = False
        self._first_s = self._end_s = 0.0
        self.decoder: str = options.decoder
        self.frames = 0
        self.outcome: Ending | None = None
        self.fallback: str | None = None
        self._fd = os.dup(video_fd)
        try:
            self._sandbox = self._start(options.decoder)
            self.facts = self._begin()
        except BaseException:
            self.close()
            raise

    def _start(self, decoder: str) -> Sandbox:
        options = self._options
        job = {
            "format": self._demuxer,
            "decoder": decoder,
            "every": options.every,
            "start": self._next_index,
            "max_pixels": options.max_pixels,
        }
        limits = Limits(options.stall_s, options.start_s, options.memory_bytes)
        return Sandbox(self._fd, job, limits, self._child)

    def _begin(self) -> VideoFacts:
        message = self._receive()
        with sense():
            facts = VideoFacts(**message["facts"])
            height, width = (int(side) for side in message["picture"])
        if not 0 < height * width <= self._options.max_pixels:
            raise VideoError("too_large", f"pictures of {width}x{height} exceed {self._options.max_pixels} pixels")
        room = self._options.ring_bytes // (RING_SLOTS * height * width * 3)
        self._sandbox.open_ring(RING_SLOTS, max(1, min(self._options.batch_frames, room)), height, width)
        self._drawing = True
        return facts

    @property
    def pid(self) -> int:
        """The decoder's process, to be watched."""
        return self._sandbox.pid

    def _receive(self) -> dict[str, Any]:
        try:
            return self._sandbox.receive()
        except VideoError as error:
            if self.decoder != "decord":
                raise
            self.fallback = str(error)
        # Whatever decord died of, PyAV tells whether the video is to blame; it goes on where decord ended.
        self._sandbox.close()
        self.decoder = "decord+pyav" if self.frames else "pyav"
        self._sandbox = self._start("pyav")
        if self._drawing:
            self._begin()
        return self._receive()

    def __iter__(self) -> Iterator[FrameBatch]:
        try:
            while "end" not in (message := self._receive()):
                yield self._batch(message)
                self._sandbox.send({"free": message["slot"]})
            with sense():
                reason, text, duration_s = (message["end"][name] for name in ("reason", "message", "duration_s"))
        except VideoError as error:
            if not self.frames:
                raise
            self._finish(error.reason, error.message, self._end_s - self._first_s)
        else:
            self._finish(reason, text, duration_s)

    def _batch(self, message: dict[str, Any]) -> FrameBatch:
        with sense():
            index = np.array(message["frame_index"], np.int32)
            time_s = np.array(message["time_s"], np.float64)
            batch = FrameBatch(self._sandbox.pictures(message["slot"], len(index)), index, time_s)
            if len(time_s) != len(index) or np.diff(index, prepend=self._next_index - 1).min() < 1:
                raise ValueError("frames out of order")
        self._first_s = self._first_s if self.frames else float(time_s[0])
        self._end_s = float(time_s[-1]) + (1 / self.facts.fps if self.facts.fps else 0.0)
        self._next_index = int(index[-1]) + 1
        self.frames += len(batch)
        return batch

    def _finish(self, reason: str | None, message: str | None, duration_s: float) -> None:
        self.outcome = Ending("partial" if reason else "ok", reason, message, self.frames, duration_s)

    def close(self) -> None:
        """End the child process. May be called twice."""
        if hasattr(self, "_sandbox"):
            self._sandbox.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def open_video(path: Path, options: DecodeOptions | None = None, child: Path = CHILD) -> Iterator[VideoReader]:
    """A reader of the video at `path`, a local file; its child process ends with the block.

    VideoError: it is no video, or no frame of it can be decoded; while iterating, never after the first frame: what
    goes wrong later is told by `outcome`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not be waited for
    except FileNotFoundError:
        raise VideoError("missing", "there is no such file") from None
    except OSError as error:
        reason = "access_denied" if isinstance(error, PermissionError) else "unreadable"
        raise VideoError(reason, f"the file cannot be opened: {error.strerror}") from None
    try:
        reader = VideoReader(fd, probe.container_of(fd), options or DecodeOptions(), child)
    finally:
        os.close(fd)
    try:
        yield reader
    finally:
        reader.close()
