"""A pool of Ray workers: Ray Data gives them the parcels, and a commit is a Ray task.

Every worker checks that it imports the driver's packages.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

from common import environment
from common.run.cluster.session import Session, running
from common.run.pool import (
    COMMIT_ATTEMPTS,
    COMMIT_PATIENCE_S,
    MakeWorker,
    Member,
    PoolOptions,
    Result,
    given_up,
    installation,
)
from common.run.watchdog import POLL_S, Watchdog

END_S = 5.0


class RayNode:
    """The Ray node that this process runs on."""

    @property
    def id(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()

    def living(self) -> set[str]:
        import ray

        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class _Actor:
    """What Ray Data runs: a `Member` of the pool."""

    def __init__(self, make: MakeWorker, monitor: Any, expected: dict[str, str]) -> None:
        name = f"{os.uname().nodename}:{os.getpid()}"

        def tell(where: str, frames: int) -> None:
            monitor.beat.remote(name, where, frames)

        self._member = Member(lambda: make(RayNode()), tell, expected)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Result]]:
        (task,) = batch["item"]
        return {"result": [self.do(task)]}

    def do(self, task: Any) -> Result:
        return self._member.do(task)


def _commit(make: MakeWorker, task: Any, monitor: Any, expected: dict[str, str]) -> Result:
    """A Ray task."""
    return _Actor(make, monitor, expected).do(task)


class RayPool:
    """A `Pool` on Ray, which the first call of `map_parcels` starts. Resolve relative paths before that."""

    def __init__(self, make: MakeWorker, options: PoolOptions) -> None:
        self._make, self._options = make, options
        self._address = environment.RAY_ADDRESS.get()
        self._stack = ExitStack()
        self._session: Session | None = None
        self._watchdog: Watchdog | None = None
        self._commits: deque[Any] = deque()
        self._under_way: set[Any] = set()  # references of commits
        self._results: queue.Queue[Any] = queue.Queue()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def doing(self) -> str | None:
        return self._watchdog.doing() if self._watchdog else "starting Ray"

    def submit(self, commit: Any) -> None:
        self._commits.append(commit)

    def map_parcels(self, parcels: Sequence[Any], on_frames: Callable[[int], None]) -> Generator[Any, None, None]:
        session = self._started()
        workers = self._options.count(
            session.cpus, len(parcels) + len(self._commits), can_grow=self._address is not None
        )
        watchdog = self._watchdog = Watchdog(workers, self._options.stall_s, on_frames, session.heard())
        pumping = self._pump(session, parcels, workers)
        try:
            while pumping.is_alive() or self._commits or self._under_way or not self._results.empty():
                self._begin_commits(session, workers)
                try:
                    result = self._results.get(timeout=POLL_S)
                except queue.Empty:
                    watchdog.look(session.heard())
                    continue
                if isinstance(result, BaseException):
                    raise result
                watchdog.finished()
                yield result.unwrap()
            watchdog.look(session.heard())
        except Exception:
            self._await_commits()
            raise
        finally:
            _end(pumping)

    def _started(self) -> Session:
        if self._session is None:
            self._session = self._stack.enter_context(running(self._address))
        return self._session

    def _pump(self, session: Session, parcels: Sequence[Any], workers: int) -> threading.Thread:
        """Starts a thread that puts the parcels' results on the queue, or the error that ended it."""

        def pump() -> None:
            try:
                if parcels:
                    for row in _dataset(parcels, self._make, self._options, workers, session.monitor).iter_rows():
                        self._results.put(row["result"])
            except BaseException as error:
                self._results.put(error)

        pumping = threading.Thread(target=pump, daemon=True, name="ray-data")
        pumping.start()
        return pumping

    def _begin_commits(self, session: Session, limit: int) -> None:
        """Starts waiting commits, at most `limit` at a time. They reserve no CPU: the workers have them all."""
        import ray

        remote = ray.remote(num_cpus=0, max_retries=COMMIT_ATTEMPTS - 1, scheduling_strategy="SPREAD")(_commit)
        while self._commits and len(self._under_way) < limit:
            commit = self._commits.popleft()
            reference = remote.remote(self._make, commit, session.monitor, installation())
            self._under_way.add(reference)
            reference.future().add_done_callback(partial(self._committed, reference, str(commit)))

    def _committed(self, reference: Any, name: str, future: Future[Result]) -> None:
        """Puts the result of a commit on the queue. Ray calls this in a thread of its own."""
        import ray

        try:
            self._results.put(future.result())
        except ray.exceptions.WorkerCrashedError:
            self._results.put(given_up(name, COMMIT_ATTEMPTS))
        except BaseException as error:
            self._results.put(error)
        self._under_way.discard(reference)

    def _await_commits(self) -> None:
        """Waits for running commits and drops their results; starts no others."""
        import ray

        self._commits.clear()
        if under_way := list(self._under_way):
            ray.wait(under_way, num_returns=len(under_way), timeout=COMMIT_PATIENCE_S)


def _end(pumping: threading.Thread) -> None:
    """Stops the execution of the dataset, while Ray still runs.

    Ray Data has no call for this: otherwise its threads outlive `ray.shutdown` and print tracebacks.
    """
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)
    pumping.join(timeout=END_S)


def _dataset(parcels: Sequence[Any], make: MakeWorker, options: PoolOptions, workers: int, monitor: Any) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs, with a traceback, what it also raises
    # One parcel per block and one block at a time per actor: otherwise a long parcel would wait behind another one.
    return ray.data.from_items(list(parcels), override_num_blocks=len(parcels)).map_batches(
        _Actor,
        fn_constructor_args=(make, monitor, installation()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(parcels)), max_tasks_in_flight_per_actor=1),
        num_cpus=options.cpus,
        memory=options.memory_bytes,
    )
