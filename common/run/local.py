"""A pool of processes on this machine, forked from the fork server, which has imported everything.

The driver exchanges pickled tasks and results with each worker through a socket pair; the socket closes when the worker
dies. No process outlives the driver: the kernel kills the fork server with the driver, the workers with the fork
server, and a worker's decoders with the worker.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from common import environment, log
from common.errors import MienError
from common.run.pool import (
    COMMIT_ATTEMPTS,
    COMMIT_PATIENCE_S,
    MakeWorker,
    PoolOptions,
    Result,
    given_up,
    installation,
)
from common.run.watchdog import BUILDING, POLL_S, Monitor, Watchdog, in_words

MODULE = "common.run.forkserver"
END_S = 5.0
SERVER_DEATHS = 3
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cpus() -> int:
    """How many CPUs this process may use: its CPU affinity, or its container's CPU quota if that is less."""
    allowed = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    return allowed


class _Task:
    """A task, and how often it was given to a worker."""

    def __init__(self, content: Any, *, commit: bool) -> None:
        self.content, self.commit, self.attempts = content, commit, 0


class _Worker:
    """A worker as the driver sees it. It is `ready` for tasks once it has sent something."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self.connection = name, connection
        self.ready = False
        self.task: _Task | None = None


class _ForkServer:
    """The process that workers are forked from. It dies with the thread that starts it."""

    def __init__(self, make: MakeWorker, cpus: int) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            terminal = sys.stderr.isatty()  # there, what workers write comes through us: lines would cross the bar
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(theirs.fileno()), str(os.getpid())],
                # Libraries start their threads at their import, so their number must be set before.
                env=environment.values() | environment.threads(cpus) | environment.logs(as_text=terminal),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if terminal else 2,  # stdout is the command's own
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[theirs.fileno()],
            )
        self._relay = threading.Thread(target=_relayed, args=(self._process.stdout,), daemon=True, name="relay")
        self._relay.start()
        self._greeting = (make, installation())
        with suppress(ConnectionError), Connection(os.dup(self._control.fileno())) as server:
            server.send(make)

    def fork(self) -> Connection:
        """Starts a worker and returns a connection to it. Raises `ConnectionError` if the server is dead."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"f"], [theirs.fileno()])
            except ConnectionError:
                ours.close()
                raise
        connection = Connection(ours.detach())
        connection.send(self._greeting)  # stays in the socket's buffer until the worker runs
        return connection

    def kill(self) -> None:
        """Kills the server; the kernel then kills its workers. May be called twice."""
        self._process.kill()
        self._process.wait()
        self._relay.join(END_S)
        self._control.close()


def _relayed(lines: Iterable[str] | None) -> None:
    """Writes the lines of a pipe, one by one, until its other ends are closed."""
    for line in lines or ():
        log.write(line.rstrip("\n"))


class LocalPool:
    """A `Pool` of forked processes. Workers keep their models from one call of `map_parcels` to the next."""

    def __init__(self, make: MakeWorker, options: PoolOptions) -> None:
        self._make, self._options = make, options
        self._workers: list[_Worker] = []
        self._hired = 0
        self._server_deaths = 0
        self._commits: deque[_Task] = deque()
        self._parcels: deque[_Task] = deque()
        self._monitor = Monitor()

    def __enter__(self) -> LocalPool:
        self._server = _ForkServer(self._make, self._options.cpus)  # imports while the driver plans
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._dismiss()
        finally:
            self._server.kill()
            self._wait_for_the_end()

    def doing(self) -> str | None:
        ready = {worker.name for worker in list(self._workers) if worker.ready}
        return in_words(where for name, where in self._monitor.heard().where.items() if name in ready)

    def submit(self, commit: Any) -> None:
        self._commits.append(_Task(commit, commit=True))

    def map_parcels(self, parcels: Sequence[Any], on_frames: Callable[[int], None]) -> Generator[Any, None, None]:
        self._parcels.extend(_Task(parcel, commit=False) for parcel in parcels)
        limit = self._options.count(cpus(), len(self._parcels) + len(self._commits))
        watchdog = Watchdog(limit, self._options.stall_s, on_frames, self._monitor.heard())
        try:
            while self._hand_out(limit):
                for result in self._results():
                    watchdog.finished()
                    self._server_deaths = 0
                    yield result.unwrap()
                watchdog.look(self._monitor.heard())
            watchdog.look(self._monitor.heard())
        except Exception:
            try:
                self._await_commits()
            except MienError as later:
                log.get("run").error("and one more error", error=str(later))
            raise

    def _hand_out(self, limit: int) -> bool:
        """Gives tasks to idle workers, commits first, and starts workers. Returns whether anything is left to do."""
        for worker in self._workers:
            if worker.ready and worker.task is None and (tasks := self._commits or self._parcels):
                self._give(worker, tasks.popleft())
        waiting = len(self._commits) + len(self._parcels)
        idle = sum(worker.task is None for worker in self._workers)
        for _ in range(min(limit - len(self._workers), waiting - idle)):
            self._hire()
        return waiting > 0 or any(worker.task for worker in self._workers)

    def _give(self, worker: _Worker, task: _Task) -> None:
        worker.task = task
        task.attempts += 1
        with suppress(ConnectionError):  # the worker is dead: the next read of its socket will tell
            worker.connection.send(task.content)

    def _hire(self) -> None:
        try:
            connection = self._server.fork()
        except ConnectionError:
            self._replace_server()
            return
        self._hired += 1
        worker = _Worker(f"worker-{self._hired}", connection)
        self._workers.append(worker)
        self._monitor.beat(worker.name, BUILDING, 0)  # so that a worker that dies before its first heartbeat counts

    def _replace_server(self) -> None:
        self._server_deaths += 1
        if self._server_deaths >= SERVER_DEATHS:
            raise MienError(
                f"the process that starts workers ended {SERVER_DEATHS} times in a row, most likely for lack of "
                "memory: run fewer workers with --workers"
            )
        self._server.kill()
        self._server = _ForkServer(self._make, self._options.cpus)

    def _results(self) -> Iterator[Result]:
        """The results that workers have sent. Waits up to `POLL_S` if there are none."""
        if not self._workers:
            time.sleep(POLL_S)
        for worker in _speaking(self._workers, POLL_S):
            try:
                message = worker.connection.recv()
            except (EOFError, ConnectionError):
                self._lost(worker)
                continue
            worker.ready = True
            if isinstance(message, Result):
                worker.task = None
                yield message
            else:
                self._monitor.beat(worker.name, *message)

    def _lost(self, worker: _Worker) -> None:
        """A worker has died: its task is done again, before all others."""
        self._workers.remove(worker)
        worker.connection.close()
        task = worker.task
        if task is None:
            return
        if task.commit and task.attempts >= COMMIT_ATTEMPTS:
            raise given_up(str(task.content), task.attempts)
        (self._commits if task.commit else self._parcels).appendleft(task)

    def _await_commits(self) -> None:
        """Waits for running commits and drops their results; starts no others."""
        self._commits.clear()
        self._parcels.clear()
        deadline = time.monotonic() + COMMIT_PATIENCE_S
        while any(w.task and w.task.commit for w in self._workers) and time.monotonic() < deadline:
            for _ in self._results():
                pass

    def _dismiss(self) -> None:
        """Asks the workers to end, so that they remove their temporary files."""
        for worker in self._workers:
            with suppress(ConnectionError):
                worker.connection.send(None)
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        """Until the processes of all workers have ended, or for `END_S`."""
        deadline = time.monotonic() + END_S
        while self._workers and (patience := deadline - time.monotonic()) > 0:
            for worker in _speaking(self._workers, patience):
                try:
                    worker.connection.recv()
                except (EOFError, ConnectionError):
                    worker.connection.close()
                    self._workers.remove(worker)


def _speaking(workers: Sequence[_Worker], patience: float) -> list[_Worker]:
    """The workers whose sockets can be read or have closed; waits up to `patience` seconds for one."""
    readable = set(wait([worker.connection for worker in workers], patience))
    return [worker for worker in workers if worker.connection in readable]
