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

    def wait(self, seconds: int) -> None:
        """Looks every second."""
        for _ in range(seconds):
            self.now += 1
            self.watchdog.look(self.monitor.heard())


@pytest.fixture
def job() -> Job:
    return Job()


def test_what_workers_prepare_is_told_until_one_is_at_a_video(job: Job) -> None:
    def told() -> str | None:
        job.wait(1)
        return job.watchdog.doing()

    assert told() == "starting workers"
    job.monitor.beat("a", BUILDING, 0)
    job.monitor.beat("b", IDLE, 0)
    assert told() == "loading models"
    job.monitor.beat("a", "/v/1.mp4", 0)
    assert told() is None


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
    for _ in range(600):
        job.now += 1
        job.watchdog.look(None)
    assert job.frames == [10]
    job.now += 1
    with pytest.raises(JobStalled, match=r"a at /v/1\.mp4"):
        job.watchdog.look(None)


def test_time_in_which_the_driver_was_stopped_does_not_count(job: Job) -> None:
    job.wait(500)
    job.now += 3600
    job.wait(80)
    with pytest.raises(JobStalled):
        job.wait(20)


def test_what_was_heard_before_counts_neither_as_frames_nor_as_deaths() -> None:
    monitor, frames = Monitor(), []
    for number in range(10):
        monitor.beat(f"worker-{number}", BUILDING, 7)
    watchdog = Watchdog(2, 600, frames.append, monitor.heard())
    monitor.beat("worker-1", "/v/1.mp4", 9)
    watchdog.look(monitor.heard())
    assert frames == [2]


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
