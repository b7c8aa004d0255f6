"""A pool of real Ray workers: results, errors, deaths and a stall."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from common.errors import JobStalled, StoreError
from common.run import cluster

pytestmark = pytest.mark.slow


Beat = Callable[[str, int], None]


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    logger = logging.getLogger("ray")
    with cluster.session():
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
        yield
    logger.setLevel(logging.NOTSET)  # for the tests of logging in this process
    logger.propagate = True
    logger.handlers.clear()


def squares() -> Callable[[int, Beat], int]:
    def work(number: int, beat: Beat) -> int:
        beat(str(number), 10)
        return number * number

    return work


def failing() -> Callable[[int, Beat], int]:
    def work(number: int, beat: Beat) -> int:
        raise StoreError("the bucket b cannot be reached: check the endpoint")

    return work


def standing_still() -> Callable[[int, Beat], int]:
    def work(number: int, beat: Beat) -> int:
        beat(f"video-{number}", 1)
        time.sleep(60)
        return number

    return work


def dying_once(marks: str) -> Callable[[int, Beat], int]:
    def work(number: int, beat: Beat) -> int:
        mark = Path(marks) / str(number)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def test_every_parcel_comes_back_once_and_frames_are_reported() -> None:
    frames: list[int] = []
    results = cluster.map_parcels(range(5), squares, cluster.Pool(workers=2), frames.append)
    assert sorted(results) == [0, 1, 4, 9, 16]
    assert sum(frames) == 50


def test_an_error_of_a_worker_reaches_the_driver_as_it_was_raised() -> None:
    with pytest.raises(StoreError, match="check the endpoint"):
        list(cluster.map_parcels([1], failing, cluster.Pool(workers=1)))


def test_a_killed_worker_is_started_again_and_its_parcel_is_not_lost(tmp_path: Path) -> None:
    results = cluster.map_parcels([1, 2], partial(dying_once, str(tmp_path)), cluster.Pool(workers=1))
    assert sorted(results) == [1, 2]


def test_a_job_without_progress_ends_and_says_where_it_stood() -> None:
    with pytest.raises(JobStalled, match="at video-7"):
        list(cluster.map_parcels([7], standing_still, cluster.Pool(workers=1, stall_s=10)))


def test_more_workers_than_the_machine_has_cpus_is_refused() -> None:
    with pytest.raises(Exception, match="ask for fewer with --workers"):
        list(cluster.map_parcels(range(4000), squares, cluster.Pool(workers=4000)))


def test_a_schedulers_sigterm_is_an_interrupt_like_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
