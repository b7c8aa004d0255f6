"""A decoder in a confined child process: the parent's side.

Decoders crash, loop for ever or use up memory on some files, and no `try` catches that. The child (`child/program.py`)
has an empty environment, its own session, resource limits, a deadline that each frame extends, and no network if the
kernel allows to drop it. It dies with its parent. Frames come through a memfd that it cannot shrink. Nothing has a name
in /dev/shm or a file system, so a `kill -9` of either side leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from common import environment
from common.config import Config
from common.errors import DecoderKilled, VideoError
from ingest.decode.messages import Alive, Given, Message, heard, nonsense, printable

CHILD = Path(__file__).with_name("child") / "program.py"
MESSAGE_BYTES = 1 << 18
DEATH_S = 2.0
FRAME_ALLOWANCE_S = 2.0  # each frame adds this to the time that the child may keep the parent waiting in all


class Limits(Config):
    """The limits of a decoder process."""

    memory_bytes: int = Field(default=2 << 30, ge=256 << 20, description="most memory of the decoder process")
    stall_s: float = Field(default=30.0, gt=0, description="longest wait for a message of the decoder")
    start_s: float = Field(default=60.0, gt=0, description="longest wait for the decoder in all; each frame adds 2 s")


class Sandbox:
    """One child process and the shared memory of its frames. Not thread-safe.

    The kernel ends the child with the *thread* that made the sandbox (PR_SET_PDEATHSIG): make it in a thread that
    outlives its use.
    """

    def __init__(self, video_fd: int, request: dict[str, Any], limits: Limits, child: Path = CHILD) -> None:
        self._limits = limits
        self._waited = 0.0
        self._allowance = limits.start_s
        self._map: mmap.mmap | None = None
        self._pixels: np.ndarray | None = None
        self._ring_fd = os.memfd_create("mien-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._stderr_fd = os.memfd_create("mien-stderr")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(child), str(theirs.fileno())],
                env=environment.OF_A_DECODER,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr_fd,
                stderr=self._stderr_fd,
                pass_fds=(theirs.fileno(), video_fd, self._ring_fd),
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            os.close(self._ring_fd)
            os.close(self._stderr_fd)
            raise
        finally:
            theirs.close()
        self.send(
            request
            | {
                "parent": os.getpid(),
                "video_fd": video_fd,
                "ring_fd": self._ring_fd,
                "memory_bytes": limits.memory_bytes,
                "stall_s": limits.stall_s,
            }
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the child is dead: the next `receive` says why
            self._socket.send(json.dumps(message).encode())

    def receive(self) -> Message:
        """The child's next message. Raises VideoError if none comes in time, the child died, or it is not valid."""
        left = self._allowance - self._waited
        self._socket.settimeout(max(min(self._limits.stall_s, left), 0.001))
        began = time.monotonic()
        try:
            data = self._socket.recv(MESSAGE_BYTES)
        except TimeoutError:
            silent = f"gave no frame for {self._limits.stall_s:.0f} s"
            slow = f"took more than {self._allowance:.0f} s for the frames so far"
            why = silent if self._limits.stall_s <= left else slow
            raise VideoError("decode_timeout", f"the decoder {why} and was stopped") from None
        except ConnectionResetError:
            data = b""
        self._waited += time.monotonic() - began
        if not data:
            raise self._cause_of_death()
        message = heard(data)
        if isinstance(message, Alive | Given):
            steps = message.alive if isinstance(message, Alive) else len(message.frame_index)
            self._allowance += FRAME_ALLOWANCE_S * steps
        return message

    def open_ring(self, slots: int, frames: int, height: int, width: int) -> None:
        """Makes the shared memory, uint8 [slots, frames, height, width, 3], and tells the child to begin."""
        shape = (slots, frames, height, width, 3)
        size = math.prod(shape)
        os.ftruncate(self._ring_fd, size)
        # Without the seal the child could shrink the memory, and reading it here would raise SIGBUS.
        fcntl.fcntl(self._ring_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self._ring_fd, size)
        self._pixels = np.frombuffer(self._map, np.uint8).reshape(shape)
        self.send({"slots": slots, "frames": frames})

    def pictures(self, slot: int, count: int) -> np.ndarray:
        """The first `count` pictures of a slot, uint8 [count, height, width, 3], no copy. VideoError: out of range."""
        assert self._pixels is not None
        if not (0 <= slot < len(self._pixels) and 0 < count <= self._pixels.shape[1]):
            raise nonsense()
        pictures: np.ndarray = self._pixels[slot, :count]
        return pictures

    def close(self) -> None:
        """Kills the child, waits for its end, and frees all resources. May be called twice."""
        self._kill()
        self._socket.close()
        for name in ("_ring_fd", "_stderr_fd"):
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)
        self._pixels = None
        if self._map is not None:
            with suppress(BufferError):  # somebody still holds a batch: the memory is freed with it
                self._map.close()
            self._map = None

    def _kill(self) -> int:
        """Kills the child and all that it started; returns its exit status."""
        if self._process.returncode is None:  # not reaped yet, so the process id is still the child's
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _died(self) -> bool:
        """Waits up to `DEATH_S` for the child's end, without reaping it. Returns whether it has ended."""
        deadline = time.monotonic() + DEATH_S
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _cause_of_death(self) -> VideoError:
        died, status = self._died(), self._kill()
        if not died:
            return VideoError("decode_error", "the decoder closed its connection")
        last = self._last_words()
        if "MemoryError" in last or "bad_alloc" in last or "annot allocate memory" in last:
            return VideoError("memory_limit", "decoding needs more memory than is allowed")
        if status >= 0:
            return VideoError("decode_error", f"the decoder ended with status {status}: {last}")
        if status == -signal.SIGXCPU:
            return VideoError("decode_timeout", "the decoder used up its processor time without a frame")
        if status == -signal.SIGKILL:
            return DecoderKilled("memory_limit", "the decoder was killed by the system, most likely for its memory")
        known = {each.value: each.name for each in signal.Signals}
        name = known.get(-status, f"signal {-status}")
        return VideoError("decode_error", f"the decoder died of {name}" + (f": {last}" if last else ""))

    def _last_words(self) -> str:
        """The last line that the child wrote to stderr."""
        size = os.fstat(self._stderr_fd).st_size
        tail = os.pread(self._stderr_fd, 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return printable(lines[-1]) if lines else ""
