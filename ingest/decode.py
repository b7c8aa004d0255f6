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
from ingest.sandbox import CHILD, Limits, Sandbox

RING_SLOTS = 3  # one with the consumer, one waiting, one being filled


class DecodeOptions(BaseModel):
    """How to decode. `decoder` and `every` change what is seen; the rest are limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: Literal["pyav", "decord"] = Field("pyav", description="where pixels come from")
    every: int = Field(1, ge=1, description="give one frame in so many")
    batch_frames: int = Field(16, ge=1, le=256, description="most frames of a batch")
    ring_bytes: int = Field(96 << 20, ge=1, description="shared memory for frames; always room for three of them")
    max_pixels: int = Field(8192 * 4320, ge=1, description="largest picture")
    memory_bytes: int = Field(2 << 30, ge=256 << 20, description="most memory of the decoder process")
    stall_s: float = Field(30.0, gt=0, description="longest wait for the next frames")
    start_s: float = Field(60.0, gt=0, description="longest wait in all, to which each frame adds 2 s")


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
    """Iterate once for the batches; `outcome` is there when they have ended. `decoder` is what gave the pixels."""

    def __init__(self, video_fd: int, container: str, options: DecodeOptions, child: Path = CHILD) -> None:
        self._options = options
        self._job = {"format": container, "every": options.every, "max_pixels": options.max_pixels, "start": 0}
        limits = Limits(options.stall_s, options.start_s, options.memory_bytes)
        self._sandbox = Sandbox(video_fd, self._job | {"decoder": options.decoder}, limits, child)
        self.decoder: str = options.decoder
        self.outcome: Ending | None = None
        self.frames = 0
        self._span: tuple[float, float] | None = None
        try:
            self.facts = self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> VideoFacts:
        message = self._sandbox.receive()
        facts = VideoFacts(**message["facts"])
        height, width = message["picture"]
        frame_bytes = height * width * 3
        frames = max(1, min(self._options.batch_frames, self._options.ring_bytes // (RING_SLOTS * frame_bytes)))
        self._sandbox.open_ring(RING_SLOTS, frames, height, width)
        return facts

    def __iter__(self) -> Iterator[FrameBatch]:
        try:
            while "end" not in (message := self._sandbox.receive()):
                yield self._batch(message)
                self._sandbox.send({"free": message["slot"]})
        except VideoError as error:
            if not self.frames:
                raise
            first, last = self._span or (0.0, 0.0)
            self.outcome = Ending("partial", error.reason, error.message, self.frames, last - first)
        else:
            self.outcome = self._ending(message["end"])

    def _batch(self, message: dict[str, Any]) -> FrameBatch:
        index = np.array(message["frame_index"], np.int32)
        time_s = np.array(message["time_s"], np.float64)
        batch = FrameBatch(self._sandbox.pictures(message["slot"], len(index)), index, time_s)
        self.frames += len(batch)
        first = self._span[0] if self._span else float(time_s[0])
        self._span = (first, float(time_s[-1]) + (1 / self.facts.fps if self.facts.fps else 0.0))
        return batch

    def _ending(self, end: dict[str, Any]) -> Ending:
        status: Literal["ok", "partial"] = "partial" if end["reason"] else "ok"
        return Ending(status, end["reason"], end["message"], self.frames, end["duration_s"])

    def close(self) -> None:
        """End the child process. May be called twice."""
        self._sandbox.close()


@contextmanager
def open_video(path: Path, options: DecodeOptions | None = None, child: Path = CHILD) -> Iterator[VideoReader]:
    """A reader of the video at `path`, a local file; its child process ends with the block.

    VideoError: it is no video, or no frame of it can be decoded; while iterating, never after the first frame: what
    goes wrong later is told by `outcome`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
