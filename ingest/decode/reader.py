"""A video's frames: upright, with square pixels, in order, each with its index and time. Decoded in a child process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from common.errors import DecoderKilled, VideoError
from ingest import probe
from ingest.decode.messages import Alive, Ended, Failed, Given, Message, Opened, VideoFacts, nonsense
from ingest.decode.registry import DECODERS
from ingest.decode.sandbox import CHILD, Limits, Sandbox

DECODE_RESULTS = 1  # version of the frames and times that are given; docs/decisions.md says when to raise it
RING_SLOTS = 3  # one with the consumer, one waiting, one being filled

Beat = Callable[[int], None]


def _registered(name: str) -> str:
    if name not in DECODERS:
        raise ValueError(f"should be one of {', '.join(DECODERS)}")
    return name


class DecodeOptions(Limits):
    """How to decode: what is seen, and within which limits."""

    decoder: Annotated[str, AfterValidator(_registered)] = Field(default="pyav", description=" or ".join(DECODERS))
    every: int = Field(default=1, ge=1, description="take one frame in every N")
    batch_frames: int = Field(default=16, ge=1, le=256, description="most frames of a batch")
    ring_bytes: int = Field(
        default=96 << 20, ge=1, description="shared memory for frames; it always has room for at least three"
    )
    max_pixels: int = Field(default=8192 * 4320, ge=1, description="largest picture")

    def identity(self) -> dict[str, Any]:
        """The options that change the frames of a video which can be decoded: all but those named here."""
        return self.model_dump(exclude={*Limits.model_fields, "batch_frames", "ring_bytes", "max_pixels"})


@dataclass(frozen=True)
class FrameBatch:
    """Neighbouring frames. `rgb` is memory shared with the decoder, which overwrites it once the next batch is asked
    for: copy what you need longer.

    rgb: uint8 [N, H, W, 3], upright, square pixels, full-range values as coded (sRGB or close to it), HDR converted to
    sRGB. H and W are the same in all batches: a picture of another shape is scaled to fit, with black borders.
    frame_index: int32 [N], from 0 in presentation order. time_s: float64 [N], PTS minus the container's start time.
    duration_s: float64 [N], from this frame to the next one that is taken; for the last, to the end of the video.
    """

    rgb: np.ndarray
    frame_index: np.ndarray
    time_s: np.ndarray
    duration_s: np.ndarray

    def __len__(self) -> int:
        return len(self.frame_index)


@dataclass(frozen=True)
class Ending:
    """How decoding ended: ok, or partial with a `reason` of `common.lake.schema.REASONS` and a sentence.

    `frames`: how many the reader gave; `duration_s`: from the first frame's time to the end of the last.
    """

    status: Literal["ok", "partial"]
    reason: str | None
    message: str | None
    frames: int
    duration_s: float | None


class VideoReader:
    """The batches of frames of a video. Iterate once; `ending` is set at the end. `beat(0)` is called from time to time
    while frames that are not wanted are decoded.

    `decoder` is what gave the pixels: "pyav", "decord", or "decord+pyav" if decord failed on the way. Then `fallback`
    says why it failed.
    """

    def __init__(
        self, video_fd: int, demuxer: str, options: DecodeOptions, child: Path = CHILD, beat: Beat = lambda frames: None
    ) -> None:
        self._options = options
        self._child = child
        self._demuxer = demuxer
        self._beat = beat
        self._next_index = 0
        self._drawing = False
        self._first_s, self._last_s, self._end_s = 0.0, -math.inf, 0.0
        self.decoder: str = options.decoder
        self.frames = 0
        self.ending: Ending | None = None
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
        request = {
            "format": self._demuxer,
            "decoder": decoder,
            "every": options.every,
            "start": self._next_index,
            "max_pixels": options.max_pixels,
        }
        return Sandbox(self._fd, request, options, self._child)

    def _begin(self) -> VideoFacts:
        opened = self._receive()
        if not isinstance(opened, Opened):
            raise nonsense()
        height, width = opened.picture
        if height * width > self._options.max_pixels:
            raise VideoError("too_large", f"pictures of {width}x{height} exceed {self._options.max_pixels} pixels")
        room = self._options.ring_bytes // (RING_SLOTS * height * width * 3)
        self._sandbox.open_ring(RING_SLOTS, max(1, min(self._options.batch_frames, room)), height, width)
        self._drawing = True
        return opened.facts

    @property
    def pid(self) -> int:
        """The id of the decoder process."""
        return self._sandbox.pid

    def _receive(self) -> Message:
        """The next message that is not a mere sign of life. Raises VideoError if decoding failed."""
        try:
            while isinstance(message := self._sandbox.receive(), Alive):
                self._beat(0)
            if isinstance(message, Failed):
                raise VideoError(message.error.reason, message.error.message)
            return message
        except DecoderKilled:
            raise  # not decord's fault, and PyAV would give other pixels than another attempt by decord
        except VideoError as error:
            if self.decoder != "decord":
                raise
            self.fallback = str(error)
        # decord failed, perhaps not because of the video: PyAV goes on with the frame after decord's last.
        self._sandbox.close()
        self.decoder = "decord+pyav" if self.frames else "pyav"
        self._sandbox = self._start("pyav")
        if self._drawing:
            self._begin()
        return self._receive()

    def __iter__(self) -> Iterator[FrameBatch]:
        try:
            while isinstance(message := self._receive(), Given):
                yield self._batch(message)
                self._sandbox.send({"free": message.slot})
            if not isinstance(message, Ended) or not self.frames:
                raise nonsense()
        except DecoderKilled:
            raise
        except VideoError as error:
            if not self.frames:
                raise
            self._finish(error.reason, error.message, self._end_s - self._first_s)
        else:
            self._finish(message.end.reason, message.end.message, message.end.duration_s)

    def _batch(self, given: Given) -> FrameBatch:
        index, time_s = np.array(given.frame_index, np.int32), np.array(given.time_s, np.float64)
        if (
            len(index) != len(time_s)
            or np.diff(index, prepend=self._next_index - 1).min() < 1
            or np.diff(time_s, prepend=self._last_s).min() <= 0
            or given.until_s < time_s[-1]
        ):
            raise nonsense()
        duration_s = np.diff(time_s, append=given.until_s)
        batch = FrameBatch(self._sandbox.pictures(given.slot, len(index)), index, time_s, duration_s)
        self._first_s = self._first_s if self.frames else float(time_s[0])
        self._last_s, self._end_s = float(time_s[-1]), given.until_s
        self._next_index = int(index[-1]) + 1
        self.frames += len(batch)
        return batch

    def _finish(self, reason: str | None, message: str | None, duration_s: float) -> None:
        self.ending = Ending("partial" if reason else "ok", reason, message, self.frames, duration_s)

    def close(self) -> None:
        """Ends the child process. May be called twice."""
        if hasattr(self, "_sandbox"):
            self._sandbox.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def open_video(
    path: Path, options: DecodeOptions | None = None, child: Path = CHILD, beat: Beat = lambda frames: None
) -> Iterator[VideoReader]:
    """A reader of the video at `path`, a local file; its child process ends with the block.

    Raises VideoError if it is no video or no frame can be decoded. Errors after the first frame are in `ending`, except
    DecoderKilled, which is raised: it says nothing about the video, so the caller should open it again.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # so that opening a FIFO does not block
    except FileNotFoundError:
        raise VideoError("missing", "there is no such file") from None
    except OSError as error:
        reason = "access_denied" if isinstance(error, PermissionError) else "unreadable"
        raise VideoError(reason, f"the file cannot be opened: {error.strerror}") from None
    try:
        reader = VideoReader(fd, probe.container_of(fd), options or DecodeOptions(), child, beat)
    finally:
        os.close(fd)
    try:
        yield reader
    finally:
        reader.close()
