"""`mien train --workers N`: starts the processes of a training on this machine, and ends them together.

As a program, it is one of them: `python -m train.launch <process id of the launcher> <arguments of mien>`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from common import cli, environment, scratch
from common.errors import MienError, UsageError
from common.run.forkserver import die_with
from train.interruption import awaited
from train.processes import LOST

_GRACE_S = 20.0  # for the others to end by themselves, once one has failed
_LOOK_S = 0.1


def run(workers: int, words: Sequence[str]) -> int:
    """Runs `mien <words>` in so many processes; returns the exit status of process 0, which writes.

    Ctrl-C and SIGTERM are passed on. Raises MienError if another process fails by itself.
    """
    if environment.WORLD_SIZE.get():
        raise UsageError("a launcher has started this process as one of several: leave out --workers")
    scratch.claim()
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(workers)]
        processes = _started(words, said)
        try:
            statuses = _ended(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        failed = {rank: status for rank, status in enumerate(statuses) if status not in (0, LOST, None)}
        if not failed:
            return next((status for status in statuses if status), 0)
        rank = min(failed)
        if failed[rank] > 0:
            if rank == 0:
                return failed[rank]
            said[rank].seek(0)
            last = said[rank].read().strip().rpartition("\n")[2].removeprefix("mien: ")
            raise MienError(f"worker {rank} of {workers} failed: {last}")
        raise MienError(
            f"worker {rank} of {workers} was killed ({signal.Signals(-failed[rank]).name}): run the same command "
            "again, it goes on from its last checkpoint"
        )


def _started(words: Sequence[str], said: Sequence[IO[str]]) -> list[subprocess.Popen[bytes]]:
    """The processes; all but the first write to the files `said`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = environment.threads(max(1, (os.cpu_count() or 1) // len(said)))
    shared = threads | environment.values()
    return [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "train.launch", str(os.getpid()), *words],
            env=shared | environment.launched(rank, len(said), port),
            stdout=subprocess.DEVNULL if rank else None,
            stderr=file if rank else None,
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone
        )
        for rank, file in enumerate(said)
    ]


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """The exit statuses once all have ended, or some time after one has failed: None for those that still run."""
    passed_on, failed_at = False, None
    with awaited() as request:
        while True:
            statuses = [process.poll() for process in processes]
            if None not in statuses:
                return statuses
            if failed_at is None and any(statuses):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > _GRACE_S:
                return statuses
            if request.made and not passed_on:
                passed_on = True
                for process in processes:
                    process.terminate()
            time.sleep(_LOOK_S)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
