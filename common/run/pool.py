"""The interface of a pool of workers, and what its two kinds share: `local` (this machine) and `cluster` (Ray).

A pool runs a job's *tasks* in worker processes: parcels of videos, and between them commits of units. The driver is the
process that made the pool. No rows pass through it: a task names what to do, and its result says how it ended.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import common
from common import errors, log
from common.errors import MienError
from common.run.watchdog import BUILDING, IDLE

PACKAGES = ("common", "ingest", "train", "score")
COMMIT_ATTEMPTS = 3
COMMIT_PATIENCE_S = 60.0

Beat = Callable[[str, int], None]


class Node(Protocol):
    """The machine that a worker runs on, as its pool knows it."""

    @property
    def id(self) -> str: ...
    def living(self) -> set[str]:
        """The ids of all nodes of the pool that are up."""


class TaskWorker(Protocol):
    """Does the tasks of a job in one process, one after the other."""

    def __call__(self, task: Any, beat: Beat) -> Any:
        """The task calls `beat(where, frames)` as often as it likes: what it is doing, and how many frames it did since
        the last call."""


class MakeWorker(Protocol):
    """Makes the worker in a process of the pool. Picklable."""

    def prepare(self) -> None:
        """Imports what workers need. It must start no thread, because workers are forked afterwards."""

    def __call__(self, node: Node) -> TaskWorker: ...


@dataclass(frozen=True)
class PoolOptions:
    """How many workers, and what each needs. `stall_s`: a job is ended after so many seconds without a heartbeat."""

    workers: int | None = None  # None: one per CPU
    cpus: int = 1
    memory_bytes: int = 1_500_000_000
    stall_s: float = 600

    def count(self, cpus: int, tasks: int, *, can_grow: bool = False) -> int:
        """How many workers to start for `tasks` tasks on `cpus` CPUs. Raises `MienError` if the CPUs are too few."""
        workers = min(self.workers or max(1, cpus // self.cpus), max(1, tasks))
        if workers * self.cpus > cpus and not can_grow:
            raise MienError(
                f"{workers} workers need {workers * self.cpus} CPUs and this machine has {cpus}: "
                "ask for fewer with --workers"
            )
        return workers


class Pool(AbstractContextManager["Pool"], Protocol):
    """Workers of one job. Use it in the main thread."""

    def map_parcels(self, parcels: Sequence[Any], on_frames: Callable[[int], None]) -> Generator[Any, None, None]:
        """Yields the results of the parcels, and of the commits that `submit` gets meanwhile, as they come.

        A worker that dies is replaced and its parcel is given to another, any number of times: the worker itself must
        count attempts. Raises what `Watchdog.look` does, and the `MienError` of a worker. It then first waits for
        running commits, but not after an interrupt.
        """

    def doing(self) -> str | None:
        """What the workers prepare, in words; None once one of them is at a task. Any thread may ask."""

    def submit(self, commit: Any) -> None:
        """Adds a commit. Workers take it before parcels; it fails when it has killed `COMMIT_ATTEMPTS` workers."""


@dataclass(frozen=True)
class Result:
    """What a task returned, or the class name and message of its error. Tracebacks stay in the worker's log."""

    value: Any
    error: tuple[str, str] | None = None

    def unwrap(self) -> Any:
        """The value; raises the `MienError` that the worker raised."""
        if self.error is not None:
            kind, sentence = self.error
            raise getattr(errors, kind)(sentence)
        return self.value


def installation() -> dict[str, str]:
    """The folder that each of our packages is imported from, and the version."""
    places = {name: os.path.dirname(importlib.import_module(name).__file__ or "") for name in PACKAGES}
    return places | {"version": common.__version__}


def check_installation(expected: dict[str, str]) -> None:
    """Raises MienError unless this process, a worker, imports the code of the driver, whose `installation` it gets."""
    found = installation()
    if found != expected:
        raise MienError(
            f"a worker imports other code than the driver ({found} instead of {expected}): install the same version of "
            "mien on every node"
        )


def given_up(commit: str, attempts: int) -> MienError:
    """The error that ends a job if one of its commits has killed every worker that tried it."""
    return MienError(
        f"the {commit} killed its worker {attempts} times, most likely for lack of memory: give workers more of it, "
        "then run the job again"
    )


class Member:
    """A process of a pool: makes its worker at the first task, and sends heartbeats to the driver."""

    BEAT_S = 1.0

    def __init__(
        self, make: Callable[[], TaskWorker], tell: Callable[[str, int], None], expected: dict[str, str]
    ) -> None:
        """`tell(where, frames)` sends a heartbeat with all frames so far; `expected`: the driver's `installation`."""
        self._make, self._tell, self._expected = make, tell, expected
        self._worker: TaskWorker | None = None
        self._where, self._frames, self._last = "", 0, 0.0
        self.beat(BUILDING, 0)

    def do(self, task: Any) -> Result:
        """Does a task. An error becomes a `Result`: an exception would reach the driver as text with tracebacks."""
        try:
            if self._worker is None:
                self._worker = self._built()
            result = Result(self._worker(task, self.beat))
        except MienError as error:
            result = Result(None, (type(error).__name__, str(error)))
        except Exception as error:
            log.get("worker").exception("worker failed", where=self._where)
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            result = Result(
                None, (MienError.__name__, f"a worker failed at {self._where} ({told}): its log has the traceback")
            )
        self.beat(IDLE, 0)
        return result

    def beat(self, where: str, frames: int) -> None:
        """Sends a heartbeat: at once for a new `where` and for the first frames, else at most once a second."""
        first = frames > 0 and self._frames == 0
        self._frames += frames
        now = time.monotonic()
        if first or where != self._where or now - self._last >= self.BEAT_S:
            self._where, self._last = where, now
            self._tell(where, self._frames)

    def _built(self) -> TaskWorker:
        check_installation(self._expected)
        log.configure()
        return self._make()
