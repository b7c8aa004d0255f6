"""A group of Ray workers that do one task together, such as a training, as the processes of one torch process group.

Ray Train starts them, on any nodes, and tells when one is lost. Then the whole group is started again, with fewer
workers if their nodes are gone. So the task itself must keep what it has done, and go on from there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from common import log, scratch
from common.errors import MienError

ATTEMPTS = 3
_GROWS_S = 600.0  # a group that lacks workers may be started again with more after so many seconds, if there are nodes
_LOOK_S = 0.5
Say = Callable[[str], None]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Protocol[T_co]):
    """What each worker does. Picklable."""

    def __call__(self, say: Say) -> T_co:
        """`say` writes text to the driver's stderr."""

    def end(self) -> None:
        """Asks for an end of the task that is under way in this process. Another thread calls it."""


@dataclass(frozen=True)
class GroupOptions:
    """`workers`: how many at most. `patience`: how long a worker may wait for another one. `variables`: of the workers.

    `progress` gives something that differs once the task has kept more of what it has done. Once `asked` is true, the
    workers are asked to end.
    """

    workers: int
    patience: timedelta
    variables: Mapping[str, str]
    progress: Callable[[], object]
    asked: Callable[[], bool]


def run(task: Task[T], options: GroupOptions) -> T:
    """What the task returns in worker 0. Ray must run.

    Raises the MienError or KeyboardInterrupt of a worker, and MienError if `ATTEMPTS` groups in a row have lost a
    worker without any progress.
    """
    import ray.train

    line = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Line).remote()
    failed, before = 0, options.progress()
    while True:
        try:
            return _watched(lambda: _fit(task, options, line), options.asked, line)
        except ray.train.WorkerGroupError as error:
            failures = [told for _, told in sorted(error.worker_failures.items())]
        except ray.train.TrainingFailedError as error:
            raise MienError(f"Ray Train has failed: {str(error).strip().splitlines()[-1]}") from None
        for told in failures:
            if isinstance(told, MienError | KeyboardInterrupt):
                raise told
        now = options.progress()
        failed, before = (failed + 1 if now == before else 1), now
        why = next((f"{type(each).__name__}: {each}".splitlines()[0] for each in failures if str(each)), "no reason")
        if failed == ATTEMPTS:
            raise MienError(
                f"a worker was lost {ATTEMPTS} times before the next checkpoint ({why}), most likely for lack of "
                "memory: give workers more of it, or write checkpoints more often, then run the same command again"
            )
        log.get("ray").warning("a worker was lost, all start again from what they have kept", why=why)


class _Line:
    """A Ray actor between the driver and its workers: these hear whether they are to end, and say what they do."""

    def __init__(self) -> None:
        self._asked, self._said = False, ""

    def ask(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked

    def say(self, text: str) -> None:
        self._said += text

    def said(self) -> str:
        """What was said since the last call."""
        said, self._said = self._said, ""
        return said


def _fit(task: Task[T], options: GroupOptions, line: Any) -> T:
    """One group, until its task ends or a worker is lost."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def work() -> T:
        threading.Thread(target=_listen, args=(line, task.end), daemon=True).start()
        return task(lambda text: line.say.remote(text))

    with scratch.folder() as unused:  # Ray Train needs a folder for checkpoints of its own
        trainer = TorchTrainer(
            work,
            torch_config=TorchConfig(timeout_s=int(options.patience.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=(1, options.workers),
                elastic_resize_monitor_interval_s=_GROWS_S,
                **_resources(options.workers),
            ),
            run_config=RunConfig(storage_path=unused, worker_runtime_env={"env_vars": dict(options.variables)}),
        )
        returned: T = trainer.fit().return_value
        return returned


def _listen(line: Any, end: Callable[[], None]) -> None:
    import ray

    with suppress(ray.exceptions.RayError):  # the driver has ended
        while not ray.get(line.asked.remote()):
            time.sleep(_LOOK_S)
        end()


def _resources(workers: int) -> dict[str, Any]:
    """What each worker gets: a GPU if the cluster has any, and as many CPUs as all of them can have."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = any(node.get("GPU") for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("GPU") or not on_gpus]
    each = next((n for n in range(max(cpus, default=1), 1, -1) if sum(cpu // n for cpu in cpus) >= workers), 1)
    return {"use_gpu": on_gpus, "resources_per_worker": {"CPU": each} | ({"GPU": 1} if on_gpus else {})}


def _watched(work: Callable[[], T], asked: Callable[[], bool], line: Any) -> T:
    """Does the work in another thread: in the main thread, Ray Train would take over Ctrl-C for good."""
    import ray

    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    ended = False
    while not ended:
        ended = future.done()
        if asked():
            line.ask.remote()
        sys.stderr.write(ray.get(line.said.remote()))
        time.sleep(0 if ended else _LOOK_S)
    return future.result()
