"""A video read by PyAV: chooses the stream, gives its frames in order with their times, and notices missing ones.

Runs in the decoder child only: nowhere else does FFmpeg see bytes of a video, which may be hostile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition

from ingest import probe
from ingest.decode.child.clock import Clock

MAX_RATE = 1000  # a header that states a higher frame rate is wrong
DEFAULT_PERIOD_S = 0.04  # of a stream that states no rate
# By definition, each packet of these containers with these codecs is one whole frame (never a field) that is shown.
WHOLE_FRAMES = ({"mov", "matroska"}, {"h264", "hevc", "vp9", "av1", "mjpeg"})


class Refusal(Exception):
    """The video cannot be decoded (further): (reason, message)."""


class Source:
    """The video stream that FFmpeg ranks best, decoded in order. It decides which frames there are, and when."""

    def __init__(self, fd: int, demuxer: str, max_pixels: int) -> None:
        """`fd`: the open file; `demuxer`: FFmpeg's name for its format. Raises Refusal."""
        self.path = f"/proc/self/fd/{fd}"  # for libraries that need a path
        self._stated_bytes = probe.stated_bytes(fd, demuxer)
        os.lseek(fd, 0, os.SEEK_SET)  # an earlier decoder process may have moved the shared position
        try:
            # The demuxer is the one whose magic bytes were found, and only this file can be opened: FFmpeg does not
            # guess the format and follows no playlist.
            options = {"fd": str(fd), "protocol_whitelist": "fd"}
            self.container = av.open("fd:", format=demuxer, options=options, metadata_errors="replace")
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
        self.clock = Clock(self.period_s)
        self.whole_frames = demuxer in WHOLE_FRAMES[0] and self.stream.codec.canonical_name in WHOLE_FRAMES[1]
        self._packets = self._undecoded = self._corrupt = self._frames = 0
        self._trouble = ""
        self._early: list[int] = []  # PTS of the packets before the first decoded frame
        self._first_pts: int | None = None
        self._expected = 0
        self._shown_to = 0  # when the last packet without content ends, in the stream's time base

    def _choose(self) -> Any:
        best = self.container.streams.best("video")
        streams = [best, *self.container.streams.video] if best is not None else []
        for stream in streams:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kinds = ", ".join(sorted({stream.type for stream in self.container.streams})) or "nothing"
        raise Refusal("no_video_stream", "the file has no video stream, only " + ("a cover" if streams else kinds))

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """(time_s, frame) in presentation order. Skips damaged packets, as the command ffmpeg does, and counts them."""
        frames = self._decoded()
        held, failure = next(frames, None), None
        last = held
        while held is not None:
            try:
                following = next(frames, None)
            except Exception as error:  # raised below, after the frame that was decoded
                following, failure = None, error
            yield self._time(held, following), held
            last, held = held, following
        self._show_on(last)
        if failure is not None:
            raise failure

    def _decoded(self) -> Iterator[Any]:
        for packet in self._demux():
            self._count(packet)
            try:
                frames = packet.decode()
            except MemoryError as error:
                raise Refusal("memory_limit", "decoding needs more memory than is allowed") from error
            except av.FFmpegError as error:
                self._damage(error)
                continue
            for frame in frames:
                self._count_frame(frame)
                yield frame

    def _demux(self) -> Iterator[Any]:
        """The packets with content, then an empty one, which makes the decoder give the frames that it still holds.

        In Ogg, an empty packet means that the picture before it stays. As for ffmpeg and ffprobe, it is not a frame:
        decoders refuse it.
        """
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
                elif packet.pts is not None:
                    self._shown_to = max(self._shown_to, packet.pts + (packet.duration or 0))
        except MemoryError as error:
            raise Refusal("memory_limit", "reading the file needs more memory than is allowed") from error
        except av.FFmpegError as error:
            self._damage(error)
        flush = av.Packet()
        flush.stream = self.stream
        yield flush

    def _damage(self, error: Exception) -> None:
        self._undecoded += 1
        self._trouble = self._trouble or _text(error)

    def _count(self, packet: Any) -> None:
        self._packets += packet.size > 0
        if not packet.size or packet.is_discard or packet.pts is None:
            return
        if not self._frames:
            self._early.append(packet.pts)
        elif self._first_pts is not None:
            self._expected += packet.pts >= self._first_pts

    def _count_frame(self, frame: Any) -> None:
        if not self._frames and frame.pts is not None:
            # A stream may begin with packets that refer to frames which were cut away: they give no frame.
            self._first_pts, self._expected = frame.pts, sum(pts >= frame.pts for pts in self._early)
            self._early.clear()
        self._frames += 1
        self._corrupt += frame.is_corrupt
        self.whole_frames = self.whole_frames and not frame.interlaced_frame  # else a packet may be a field

    def _show_on(self, last: Any | None) -> None:
        """Extends the last frame to the time that empty packets at the end of the stream state."""
        if last is not None and last.pts is not None:
            base = self.stream.time_base
            self.clock.end_s = max(self.clock.end_s, self.clock.last_s + float((self._shown_to - last.pts) * base))

    def _time(self, frame: Any, following: Any | None) -> float:
        duration = frame.duration * float(frame.time_base or self.stream.time_base) if frame.duration else None
        return self.clock.tick(self._stated(frame), self._stated(following), duration)

    def _stated(self, frame: Any | None) -> float | None:
        """The frame's PTS in seconds from the container's start; None without a PTS."""
        if frame is None or frame.pts is None:
            return None
        base: Fraction = frame.time_base or self.stream.time_base
        return float(frame.pts * base.numerator / base.denominator - self.start_s)

    def leave(self, frames: int, last_s: float) -> None:
        """Notes that another decoder decodes the frames: `frames` in all, the last one at `last_s`."""
        self._frames = self._expected = frames
        self.clock.end_s = last_s + self.period_s

    def verdict(self) -> tuple[str | None, str | None]:
        """(reason, message) of how it ended; both None when the whole file was decoded.

        MPEG transport and program streams state neither their length nor their number of frames: it goes unnoticed if
        such a file was cut short between two frames.
        """
        if self._undecoded:
            count = f"{self._undecoded} of {self._packets} packets could not be decoded"
            return "decode_error", f"{count}: {self._trouble}"
        index = self.stream.index_entries
        indexed = index[-1].pos + index[-1].size if len(index) else 0
        if max(indexed, self._stated_bytes) > self.container.size:
            of = f"{self._frames} of {self.stream.frames}" if self.stream.frames else f"only {self._frames}"
            reason = "decode_error" if self._frames else "unreadable"
            return reason, f"the file is cut short: {of} frames are there"
        if not self._frames:
            return "unreadable", "the file describes a video but holds no frame of it"
        if self._corrupt:
            return "decode_error", f"{self._corrupt} of {self._frames} frames are damaged"
        if self.whole_frames and self._frames < self._expected:
            return "decode_error", f"{self._expected - self._frames} of {self._expected} frames could not be decoded"
        return None, None


def _text(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:200]
