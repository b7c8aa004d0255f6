"""The Ray session, and a pool of workers that takes parcels of videos: all of mien's Ray is in this module.

Ray puts the driver's working directory first on its workers' path, where a stranger's `train.py` would shadow ours.
So a session starts from an empty folder, and every worker checks that its packages are the driver's.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import common
from common import environment, errors, log
from common.errors import MienError
from common.run.watchdog import BUILDING, IDLE, Beats, Monitor, Watchdog

PACKAGES = ("common", "ingest", "train", "score")
OBJECT_STORE_BYTES = 200 * 2**20  # only parcels and outcomes cross it, never frames
POLL_S = 0.5
KNOCK_S = 10.0
HEAR_S = 10.0
END_S = 5.0


class ParcelWorker(Protocol):
    """What runs in an actor: one call a parcel; `beat(where, frames)` reports progress and costs next to nothing."""

    def __call__(self, parcel: Any, beat: Callable[[str, int], None]) -> Any: ...


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each asks of its node."""

    workers: int | None = None  # None: one per CPU of the cluster
    cpus: float = 1
    memory_bytes: int = 1_500_000_000
    stall_s: float = 600


def installation() -> dict[str, str]:
    """Where each of our packages is imported from, and the version."""
    places = {name: os.path.dirname(importlib.import_module(name).__file__ or "") for name in PACKAGES}
    return places | {"version": common.__version__}


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """A scheduler's SIGTERM ends the block as Ctrl-C does, so that Ray ends with it."""

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def session() -> Iterator[None]:
    """A Ray session: the cluster that `RAY_ADDRESS` names, else one on this machine that ends with the block.

    The process works from an empty folder inside the block, so resolve relative paths before. Main thread only.
    """
    environment.RAY_USAGE_STATS_ENABLED.set_default("0")
    environment.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO.set_default("0")
    environment.RAY_BACKEND_LOG_LEVEL.set_default("fatal")
    # Ray Data's threads outlive an ended job for a moment; their calls would start another Ray in this process.
    environment.RAY_ENABLE_AUTO_CONNECT.set_default("0")
    remote = environment.RAY_ADDRESS.get()
    # Never left to a default that changes between Ray's releases: a cluster of our own has a token of its own.
    # Ray reads both when it is imported, so that must not happen before.
    environment.RAY_AUTH_MODE.set_default("token")
    if environment.RAY_AUTH_MODE.get() == "token" and not remote:
        environment.RAY_AUTH_TOKEN.set_default(secrets.token_hex(32))

    import ray

    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="mien-") as empty:
        os.chdir(empty)
        try:
            with _silent_stderr():
                _init(remote)
            with _sigterm_as_ctrl_c():  # `ray.init` takes the signal for itself
                yield
        finally:
            ray.shutdown()
            os.chdir(before)


def _init(address: str | None) -> None:
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}  # stdout is the command's own
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
    except Exception as error:
        where = f"at {address} cannot be reached" if address else "does not start on this machine"
        remedy = "check RAY_ADDRESS and its token" if address else "run `mien doctor`"
        raise MienError(f"Ray {where} ({_first_line(error)}): {remedy}") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps the start of Ray's core, which writes past Python, off the terminal; what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens: Ray itself waits for minutes. What is no host:port is Ray's to find."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


class _Actor:
    """A Ray Data actor around a `ParcelWorker`, which its first call builds: an error there is told as any other."""

    BEAT_S = 1.0

    def __init__(self, factory: Callable[[], ParcelWorker], monitor: Any, expected: dict[str, str]) -> None:
        self.factory, self.monitor, self.expected = factory, monitor, expected
        self.name = f"{os.uname().nodename}:{os.getpid()}"
        self.frames = 0
        self.where, self.last = "", 0.0
        self.worker: ParcelWorker | None = None
        self.beat(BUILDING, 0)

    def _build(self) -> ParcelWorker:
        found = installation()
        if found != self.expected:
            raise MienError(
                f"a worker imports other code than the driver ({found} instead of {self.expected}): "
                "install the same version of mien on every node"
            )
        log.configure()
        return self.factory()

    def beat(self, where: str, frames: int) -> None:
        self.frames += frames
        if where != self.where or time.monotonic() - self.last >= self.BEAT_S:
            self.where, self.last = where, time.monotonic()
            self.monitor.beat.remote(self.name, where, self.frames)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (parcel,) = batch["item"]
        try:
            if self.worker is None:
                self.worker = self._build()
            result, error = self.worker(parcel, self.beat), None
        except Exception as raised:
            # Ray would hand the driver a text with tracebacks in it; the sentence travels as data.
            result, error = None, self._told(raised)
        self.beat(IDLE, 0)
        return {"result": [result], "error": [error]}

    def _told(self, error: Exception) -> tuple[str, str]:
        if isinstance(error, MienError):
            return type(error).__name__, str(error)
        log.get("worker").exception("worker failed", where=self.where)
        return MienError.__name__, f"a worker failed at {self.where} ({_first_line(error)}): its log has the traceback"


def node_id() -> str:
    """The Ray node this process runs on."""
    import ray

    return ray.get_runtime_context().get_node_id()


def living_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def map_parcels(
    parcels: Sequence[Any],
    factory: Callable[[], ParcelWorker],
    pool: Pool,
    on_frames: Callable[[int], None] = lambda frames: None,
) -> Generator[Any, None, None]:
    """Yields what `factory()` makes of each parcel, as they finish; call it inside a `session`.

    A worker that dies is started again and its parcel given to it once more, without end: whoever writes the worker
    counts attempts. Closing the generator stops the workers. Raises what `Watchdog.look` does, and the worker's own
    `MienError`.
    """
    import ray

    if not parcels:
        return
    cpus = int(ray.cluster_resources().get("CPU", 1))
    workers = min(pool.workers or max(1, int(cpus // pool.cpus)), len(parcels))
    if workers * pool.cpus > cpus and not environment.RAY_ADDRESS.get():
        raise MienError(
            f"{workers} workers need {workers * pool.cpus:g} CPUs and this machine has {cpus}: "
            "ask for fewer with --workers"
        )
    monitor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Monitor).remote()
    results: queue.Queue[Any] = queue.Queue()

    def pump() -> None:
        try:
            for row in _dataset(parcels, factory, pool, workers, monitor).iter_rows():
                results.put(row)
            results.put(None)
        except BaseException as error:
            results.put(error)

    pumping = threading.Thread(target=pump, daemon=True, name="ray-data")
    pumping.start()
    watchdog = Watchdog(workers, pool.stall_s, on_frames)
    try:
        for row in _taken(results, lambda: watchdog.look(_heard(monitor))):
            watchdog.finished()
            yield row
    finally:
        _end(pumping)


def _taken(results: queue.Queue[Any], look: Callable[[], None]) -> Iterator[Any]:
    """What workers made, off the queue that Ray Data's rows, its error or at the end `None` are put on."""
    while True:
        try:
            result = results.get(timeout=POLL_S)
        except queue.Empty:
            look()
            continue
        if result is None:
            look()
            return
        if isinstance(result, BaseException):
            raise result
        if result["error"] is not None:
            kind, sentence = result["error"]
            raise getattr(errors, kind)(sentence)
        yield result["result"]


def _heard(monitor: Any) -> Beats | None:
    import ray

    try:
        beats: Beats = ray.get(monitor.heard.remote(), timeout=HEAR_S)
    except ray.exceptions.GetTimeoutError:
        return None
    return beats


def _end(pumping: threading.Thread) -> None:
    """Stops an execution whose results nobody takes any more, while there is still a Ray to be asked to.

    Ray Data has no call for it: left alone, its threads outlive `ray.shutdown` and print tracebacks of their own.
    """
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)
    pumping.join(timeout=END_S)


def _dataset(
    parcels: Sequence[Any], factory: Callable[[], ParcelWorker], pool: Pool, workers: int, monitor: Any
) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs, with a traceback, what it also raises
    # One parcel a block and one block in flight an actor: otherwise two long parcels queue behind one another.
    return ray.data.from_items(list(parcels), override_num_blocks=len(parcels)).map_batches(
        _Actor,
        fn_constructor_args=(factory, monitor, installation()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        memory=pool.memory_bytes,
    )
