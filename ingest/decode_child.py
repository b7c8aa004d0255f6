"""The decoder program: one video in, frames out, alone in a confined child process. Started by `ingest.sandbox`.

It imports nothing of mien and is handed three descriptors: a socket for messages (JSON, one per packet), the video,
and a sealed memfd, the ring of frame slots. FFmpeg sees hostile bytes here and nowhere else.

Messages: parent {job}; child {"facts": ...}; parent {"slots": K, "frames": N}; then child {"slot": k, "frame_index":
[...], "time_s": [...]} and parent {"free": k}, in any order; last, child {"end": ...} or {"error": ...}.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
STDERR_BYTES = 64 << 10
FLUSH_S = 1.0  # a batch is sent half full rather than held longer: each is a heartbeat
MAX_ASPECT = 10  # a pixel longer than this is a lie in the header

Message = dict[str, Any]


class Refusal(Exception):
    """The video cannot be decoded (further): (reason, message)."""


class Link:
    """The socket to the parent."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def receive(self) -> Message:
        data = self._socket.recv(1 << 18)
        if not data:
            os._exit(0)  # the parent is gone
        message: Message = json.loads(data)
        return message

    def send(self, message: Message) -> None:
        self._socket.send(json.dumps(message).encode())


def confine(job: Message) -> None:
    """Give up what decoding does not need; must run before any thread starts."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        os._exit(0)  # it died before the line above
    if libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)  # without privileges; where neither is allowed, the network stays
    home = tempfile.mkdtemp()
    os.chdir(home)
    os.rmdir(home)  # a working directory in which nothing can be made, and nothing left behind
    os.nice(5)
    limits = {
        resource.RLIMIT_DATA: job["memory_bytes"],
        resource.RLIMIT_AS: 2 * job["memory_bytes"] + (2 << 30),  # libraries and the ring count here
        resource.RLIMIT_FSIZE: STDERR_BYTES,  # stderr is a memfd: what goes beyond is dropped by the kernel
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def allow_cpu(seconds: float) -> None:
    """The kernel's own deadline, moved on with each batch: SIGXCPU after so much more processor time."""
    used = time.process_time()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, hard))


class Source:
    """The video stream that FFmpeg calls best, decoded in order by PyAV; the authority on count, order and time."""

    def __init__(self, path: str, job: Message) -> None:
        import av

        self._av = av
        self.path = path
        try:
            # The demuxer is the one whose magic bytes were found: nothing is sniffed, no playlist is followed.
            self.container = av.open(
                path, format=job["format"], options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        except MemoryError as error:
            raise Refusal("memory_limit", "opening the file needs more memory than is allowed") from error
        except (av.FFmpegError, ValueError, UnicodeError) as error:
            raise Refusal("unreadable", f"the container cannot be read: {_text(error)}") from error
        self.stream = self._choose()
        context = self.stream.codec_context
        if context is None:
            raise Refusal("unreadable", "no decoder for its video codec is installed")
        if "enc_key_id" in self.stream.metadata:
            raise Refusal("encrypted", "the video stream is encrypted")
        if context.width * context.height > job["max_pixels"]:
            raise Refusal("too_large", f"pictures of {context.width}x{context.height} exceed the pixel limit")
        context.thread_count = 1
        context.options = {"max_pixels": str(job["max_pixels"])}
        start = self.container.start_time
        self.start_s: float = start / av.time_base if start is not None else 0.0
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.period_s = float(1 / rate) if rate else 0.04
        self.packets = self.damaged = self.frames = 0
        self.first_s = self.end_s = 0.0
        self.trouble = ""

    def _choose(self) -> Any:
        attached = self._av.stream.Disposition.attached_pic
        best = self.container.streams.best("video")
        candidates = [best, *self.container.streams.video] if best is not None else []
        for stream in candidates:
            if not stream.disposition & attached:
                return stream
        kinds = ", ".join(sorted({stream.type for stream in self.container.streams})) or "nothing"
        raise Refusal("no_video_stream", f"the file has no video stream, only {kinds if not candidates else 'a cover'}")

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """(time_s, frame) in presentation order; what FFmpeg's own command skips is skipped and counted."""
        for packet in self._demux():
            self.packets += 1
            try:
                frames = packet.decode()
            except MemoryError as error:
                raise Refusal("memory_limit", "decoding needs more memory than is allowed") from error
            except self._av.FFmpegError as error:
                self.damaged += 1
                self.trouble = self.trouble or _text(error)
                continue
            for frame in frames:
                yield self._time(frame), frame

    def _demux(self) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream)
        except self._av.FFmpegError as error:
            self.damaged += 1
            self.trouble = self.trouble or _text(error)
            yield self._av.Packet()  # the frames that the decoder still holds

    def _time(self, frame: Any) -> float:
        if frame.pts is None:  # an estimate that keeps the order
            seconds = self.end_s if self.frames else 0.0
        else:
            base: Fraction = frame.time_base or self.stream.time_base
            seconds = frame.pts * base.numerator / base.denominator - self.start_s
        length = float(frame.duration * (frame.time_base or self.stream.time_base)) if frame.duration else 0.0
        self.first_s = seconds if not self.frames else self.first_s
        self.end_s = seconds + (length or self.period_s)
        self.frames += 1
        return seconds

    def verdict(self) -> Message:
        """How it ended: {"reason", "message"}, both None when the whole file was decoded."""
        stated = self.stream.frames
        if self.damaged:
            count = f"{self.damaged} of {self.packets} packets could not be decoded"
            return {"reason": "decode_error", "message": f"{count}: {self.trouble}"}
        index = self.stream.index_entries
        if len(index) and index[-1].pos + index[-1].size > self.container.size:
            missing = f"{self.frames} of {stated} frames" if stated else f"only {self.frames} frames"
            reason = "decode_error" if self.frames else "unreadable"
            return {"reason": reason, "message": f"the file is cut short: {missing} are there"}
        if not self.frames:
            return {"reason": "unreadable", "message": "the file describes a video but holds no frame of it"}
        return {"reason": None, "message": None}


class Easel:
    """Turns decoded frames into upright RGB pictures of one size with square pixels."""

    def __init__(self, source: Source, first: Any, max_pixels: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._av = source._av
        transpose, _, _, self.rotation = orientation(first)
        width, height = first.width, first.height
        self.source_size = (height, width) if transpose else (width, height)
        aspect = source.stream.sample_aspect_ratio or Fraction(1)
        if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:  # the shorter side is stretched: no pixel is lost
            width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        if width * height > max_pixels:
            raise Refusal("too_large", f"pictures of {width}x{height} exceed the pixel limit")
        self.width, self.height = (height, width) if transpose else (width, height)

    def draw(self, frame: Any, target: Any) -> None:
        """`frame` into `target`, uint8 [height, width, 3]. A change of size in mid-stream is scaled to the first."""
        import numpy as np

        transpose, flip_x, flip_y, _ = orientation(frame)
        width, height = (self.height, self.width) if transpose else (self.width, self.height)
        picture = self._convert(frame, width, height)
        plane = picture.planes[0]
        pixels = np.ndarray((height, width), "V3", buffer=plane, strides=(plane.line_size, 3))
        pixels = pixels.T if transpose else pixels
        pixels = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        np.copyto(target.view("V3")[..., 0], pixels)

    def _convert(self, frame: Any, width: int, height: int) -> Any:
        """By swscale, with the frame's own matrix and range; an untagged one is BT.601, limited, as FFmpeg has it."""
        from av.video.reformatter import ColorRange, Interpolation

        scaled = (width, height) != (frame.width, frame.height)
        how = Interpolation.BICUBIC if scaled else Interpolation.BILINEAR
        arguments = {"format": "rgb24", "interpolation": how, "dst_color_range": ColorRange.JPEG, "threads": 1}
        try:
            return self._reformatter.reformat(frame, width, height, **arguments)
        except self._av.FFmpegError:
            # swscale knows no YCgCo, ICtCp or constant-luminance matrix; BT.2020's other one is close to the last.
            frame.colorspace = 9 if frame.colorspace == 10 else 2
            return self._reformatter.reformat(frame, width, height, **arguments)


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


class Ring:
    """The sealed memory shared with the parent: `slots` batches of up to `frames` pictures."""

    def __init__(self, fd: int, link: Link, easel: Easel, job: Message) -> None:
        import numpy as np

        size = link.receive()
        self._capacity: int = size["frames"]
        shape = (size["slots"], self._capacity, easel.height, easel.width, 3)
        self._pixels = np.frombuffer(mmap.mmap(fd, math.prod(shape)), np.uint8).reshape(shape)
        self._free = list(range(size["slots"]))
        self._link = link
        self._cpu_s = 2 * job["stall_s"]
        self._slot: int | None = None
        self._rows: list[tuple[int, float]] = []
        self._began = time.monotonic()

    def put(self, index: int, time_s: float, draw: Callable[[Any], None]) -> None:
        if self._slot is None:
            while not self._free:
                self._free.append(self._link.receive()["free"])  # back-pressure: wait for the consumer
            self._slot = self._free.pop()
            self._began = time.monotonic()
        draw(self._pixels[self._slot, len(self._rows)])
        self._rows.append((index, time_s))
        if len(self._rows) == self._capacity or time.monotonic() - self._began > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            indices, times = zip(*self._rows, strict=True)
            self._link.send({"slot": self._slot, "frame_index": indices, "time_s": times})
            self._slot, self._rows = None, []
            allow_cpu(self._cpu_s)


def decode(link: Link, job: Message, path: str, ring_fd: int) -> Message:
    source = Source(path, job)
    frames = iter(source)
    first = next(frames, None)
    if first is None:
        verdict = source.verdict()
        raise Refusal(verdict["reason"], verdict["message"])
    easel = Easel(source, first[1], job["max_pixels"])
    rate = source.stream.average_rate
    link.send(
        {
            "facts": {
                "container": source.container.format.name,
                "codec": source.stream.codec.name,
                "width": easel.source_size[0],
                "height": easel.source_size[1],
                "fps": float(rate) if rate else None,
                "rotation": easel.rotation,
                "stated_frames": source.stream.frames or None,
            },
            "picture": [easel.height, easel.width],
        }
    )
    ring = Ring(ring_fd, link, easel, job)
    index = 0
    item: tuple[float, Any] | None = first
    while item is not None:
        time_s, frame = item
        if index >= job["start"] and index % job["every"] == 0:
            ring.put(index, time_s, lambda target, frame=frame: easel.draw(frame, target))
        index += 1
        item = next(frames, None)
    ring.flush()
    return source.verdict() | {"duration_s": source.end_s - source.first_s}


def _text(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:200]


def main() -> None:
    link = Link(int(sys.argv[1]))
    job = link.receive()
    confine(job)
    allow_cpu(2 * job["stall_s"])
    try:
        ending = decode(link, job, f"/proc/self/fd/{job['video_fd']}", job["ring_fd"])
    except Refusal as refusal:
        reason, message = refusal.args
        link.send({"error": {"reason": reason, "message": message}})
    except MemoryError:
        link.send({"error": {"reason": "memory_limit", "message": "decoding needs more memory than is allowed"}})
    else:
        link.send({"end": ending})
    link.receive()  # until the parent closes: what was sent is not lost
    os._exit(0)


if __name__ == "__main__":
    main()
