"""When a job is given up, with a clock that the tests turn."""

from __future__ import annotations

import pytest

from common.errors import JobStalled, MienError
from common.run.watchdog import BUILDING, IDLE, Monitor, Watchdog


class Job:
    """A monitor and its watchdog (2 workers, 600 s), looked at whenever the clock moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.frames: list[int] = []
        self.monitor = Monitor()
        self.watchdog = Watchdog(2, 600, self.frames.append, clock=lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.watchdog.look(self.monitor.heard())


@pytest.fixture
def job() -> Job:
    return Job()


def test_frames_are_told_as_they_come(job: Job) -> None:
    job.monitor.beat("a", "/v/1.mp4", 10)
    job.monitor.beat("b", "/v/2.mp4", 5)
    job.wait(1)
    job.monitor.beat("a", "/v/1.mp4", 30)
    job.wait(1)
    assert job.frames == [15, 20]


def test_silence_ends_the_job_and_says_where_who_was_at_work_stood(job: Job) -> None:
    job.monitor.beat("a", "/v/1.mp4", 10)
    job.monitor.beat("b", IDLE, 5)
    job.wait(1)
    with pytest.raises(JobStalled, match=r"no progress for 600 s, the job was ended: a at /v/1\.mp4; run it again"):
        job.wait(601)


def test_a_heartbeat_without_a_frame_is_a_sign_of_life(job: Job) -> None:
    for _ in range(10):
        job.monitor.beat("a", "/v/1.mp4", 0)
        job.wait(500)


def test_a_finished_parcel_is_a_sign_of_life(job: Job) -> None:
    for _ in range(10):
        job.wait(500)
        job.watchdog.finished()


def test_a_monitor_that_does_not_answer_is_neither_a_sign_of_life_nor_forgets(job: Job) -> None:
    job.monitor.beat("a", "/v/1.mp4", 10)
    job.wait(1)
    job.watchdog.look(None)
    job.wait(1)
    assert job.frames == [10]
    job.now += 601
    with pytest.raises(JobStalled):
        job.watchdog.look(None)


def test_workers_that_are_killed_while_they_build_end_the_job(job: Job) -> None:
    for number in range(5):  # two at work, three killed
        job.monitor.beat(f"worker-{number}", BUILDING, 0)
        job.wait(60)
    job.monitor.beat("worker-5", BUILDING, 0)
    with pytest.raises(MienError, match="run fewer of them with --workers"):
        job.wait(60)


def test_workers_killed_now_and_then_in_a_long_job_do_not_end_it(job: Job) -> None:
    for number in range(20):
        job.monitor.beat(f"worker-{number}", BUILDING, 0)
        job.wait(60)
        job.watchdog.finished()
