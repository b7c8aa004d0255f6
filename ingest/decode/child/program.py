"""The decoder program: decodes one video in a confined child process. Started by `ingest.decode.sandbox`.

It inherits three descriptors: a socket for messages (JSON, one per packet), the video, and a sealed memfd, the ring of
frame slots. The messages are, in this order:
parent: the request; child: {"facts", "picture"}; parent: {"slots": K, "frames": N};
then in any order child: {"slot": k, "frame_index": [...], "time_s": [...], "until_s": when the last of them ends},
parent: {"free": k}, and, if there is no frame for a while, child: {"alive": steps since the last message};
at the end child: {"end"} or {"error"}.
"""

from __future__ import annotations

import ctypes
import itertools
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
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ingest.decode.child.easel import Easel
    from ingest.decode.child.source import Source

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
STDERR_BYTES = 64 << 10
SILENCE_S = 1.0  # while it works, the child sends a message at least this often: each is a heartbeat

Message = dict[str, Any]
Frames = Iterator[tuple[float, Any]]  # (time_s, av.VideoFrame)


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


def confine(request: Message) -> None:
    """Gives up all rights that decoding does not need. Call it before any thread starts and the video is opened."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        os._exit(0)  # the parent died before `prctl`
    if libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)  # needs no privileges; if this fails too, the network stays
    home = tempfile.mkdtemp()
    os.chdir(home)
    os.rmdir(home)  # in a removed working directory no file can be made
    os.nice(5)
    limits = {
        resource.RLIMIT_DATA: request["memory_bytes"],
        resource.RLIMIT_AS: 2 * request["memory_bytes"] + (2 << 30),  # libraries and the ring count here
        resource.RLIMIT_FSIZE: STDERR_BYTES,  # for stderr, which is a memfd: the kernel drops what exceeds this
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def allow_cpu(seconds: float) -> None:
    """Lets the kernel send SIGXCPU after `seconds` more of processor time. Called again with each message."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = math.ceil(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


class Ring:
    """The sealed memory shared with the parent: `slots` batches of up to `frames` pictures.

    A batch is sent once the next frame is known, which says how long the batch's last frame is shown.
    """

    def __init__(self, link: Link, request: Message, height: int, width: int) -> None:
        import numpy as np

        size = link.receive()
        self._capacity: int = size["frames"]
        shape = (size["slots"], self._capacity, height, width, 3)
        self._pixels = np.frombuffer(mmap.mmap(request["ring_fd"], math.prod(shape)), np.uint8).reshape(shape)
        self._free = list(range(size["slots"]))
        self._link = link
        self._cpu_s = 2 * request["stall_s"]
        self._slot: int | None = None
        self._rows: list[tuple[int, float]] = []
        self._steps = 0
        self._spoke = time.monotonic()

    def put(self, index: int, time_s: float, draw: Callable[[np.ndarray], None]) -> None:
        """Adds a frame, which `draw` draws into its place. Waits while the parent holds all slots."""
        if len(self._rows) == self._capacity or time.monotonic() - self._spoke > SILENCE_S:
            self.flush(time_s)
        if self._slot is None:
            while not self._free:
                self._free.append(self._link.receive()["free"])
            self._slot = self._free.pop()
            self._spoke = time.monotonic()
        draw(self._pixels[self._slot, len(self._rows)])
        self._rows.append((index, time_s))

    def alive(self) -> None:
        """Counts a step of the work that gives no frame, such as decoding a frame that is skipped."""
        self._steps += 1
        if time.monotonic() - self._spoke > SILENCE_S:
            self._send({"alive": self._steps})
            self._steps = 0

    def flush(self, until_s: float) -> None:
        """Sends the frames so far; the last of them is shown until `until_s`."""
        if self._rows:
            indices, times = zip(*self._rows, strict=True)
            self._send({"slot": self._slot, "frame_index": indices, "time_s": times, "until_s": until_s})
            self._slot, self._rows = None, []

    def drop_last(self) -> None:
        """Sends the frames so far without the last one, of which it is not known how long it is shown."""
        if self._rows:
            self.flush(self._rows.pop()[1])

    def _send(self, message: Message) -> None:
        self._link.send(message)
        self._spoke = time.monotonic()
        allow_cpu(self._cpu_s)


def decode(link: Link, request: Message) -> Message:
    """Decodes the whole video into the ring; returns the content of the message "end"."""
    from ingest.decode.child.easel import Easel
    from ingest.decode.child.source import Refusal, Source
    from ingest.decode.registry import DECODERS

    source = Source(request["video_fd"], request["format"], request["max_pixels"])
    frames = iter(source)
    first = next(frames, None)
    if first is None:
        raise Refusal(*source.verdict())
    easel = Easel(source.stream.sample_aspect_ratio, first[1], request["max_pixels"])
    link.send({"facts": _facts(source, easel), "picture": [easel.height, easel.width]})
    ring = Ring(link, request, easel.height, easel.width)
    decoder = import_module(DECODERS[request["decoder"]])
    try:
        decoder.give(source, itertools.chain([first], frames), easel, ring, request)
    finally:
        ring.flush(source.clock.end_s)
    reason, message = source.verdict()
    return {"reason": reason, "message": message, "duration_s": source.clock.end_s - source.clock.first_s}


def _facts(source: Source, easel: Easel) -> Message:
    return {
        "container": source.container.format.name,
        "codec": source.stream.codec.canonical_name,
        "width": easel.source_size[0],
        "height": easel.source_size[1],
        "fps": source.rate,
        "rotation": easel.rotation,
    }


def main() -> None:
    link = Link(int(sys.argv[1]))
    request = link.receive()
    confine(request)
    allow_cpu(2 * request["stall_s"])
    from ingest.decode.child.source import Refusal

    try:
        ending = decode(link, request)
    except Refusal as refusal:
        reason, message = refusal.args
        link.send({"error": {"reason": reason, "message": message}})
    except MemoryError:
        link.send({"error": {"reason": "memory_limit", "message": "decoding needs more memory than is allowed"}})
    else:
        link.send({"end": ending})
    while True:
        link.receive()  # waits until the parent closes the socket, so that no message is lost


if __name__ == "__main__":
    main()
