"""The process from which the workers of a local pool are forked: it has imported all that workers need.

It is started with `python -P -m common.run.forkserver FD DRIVER`: the socket to the driver and the driver's process id.
The driver first sends its `MakeWorker`, then a socket for each worker that it wants. This process has one thread and
opens no files. The kernel kills the workers when it ends, and kills it when the driver ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection

from common import log, scratch
from common.arrow import without_pandas
from common.run.pool import Member

NODE = "this machine"
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class LocalNode:
    """The one machine of a local pool."""

    id = NODE

    def living(self) -> set[str]:
        return {NODE}


def die_with(parent: int) -> None:
    """Tells the kernel to kill this process when the thread of `parent` that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    die_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes; the driver ends this one
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps dead workers; the driver sees their sockets close
    log.configure()
    without_pandas()
    # Python 3.12 warns of a fork in a process with threads. Arrow's allocator has one, which handles forks.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
    with Connection(os.dup(control.fileno())) as driver, suppress(Exception):  # a worker gets the same error, and tells
        driver.recv().prepare()
    gc.freeze()  # so that garbage collection in a worker does not copy the pages that all share
    connection = serve(control)
    if connection is not None:
        try:
            work(connection)
        finally:
            scratch.release()  # now: as soon as the socket closes, the driver may have this process killed


def serve(control: socket.socket) -> Connection | None:
    """Forks a worker for each socket that arrives. In a worker returns its connection, in the server None at last."""
    server = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return None
        if os.fork() == 0:
            die_with(server)
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a worker waits for its decoders
            ctypes.CDLL(None).prctl(_PR_SET_NAME, b"mien-worker")
            return Connection(descriptors[0])
        os.close(descriptors[0])


def work(driver: Connection) -> None:
    """Does the tasks that the driver sends, until it sends None. Sends heartbeats (where, frames) and `Result`s."""
    make, expected = driver.recv()

    def tell(where: str, frames: int) -> None:
        driver.send((where, frames))

    member = Member(lambda: make(LocalNode()), tell, expected)
    while (task := driver.recv()) is not None:
        driver.send(member.do(task))


if __name__ == "__main__":
    main()
