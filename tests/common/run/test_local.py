"""A pool of processes of this machine: where they come from, what they share, and that none is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from terminal import on_a_terminal
from toy_workers import MakeToy

from common.errors import MienError, StoreError
from common.run import local
from common.run.local import LocalPool
from common.run.pool import PoolOptions

DRIVER = """
import sys
from common.run.interrupt import sigterm_as_ctrl_c
from common.run.local import LocalPool
from common.run.pool import PoolOptions
from toy_workers import MakeToy
with sigterm_as_ctrl_c(), LocalPool(MakeToy(), PoolOptions(workers=1)) as pool:
    list(pool.map_parcels([("beget", sys.argv[1])], lambda frames: None))
"""


def unheard(frames: int) -> None:
    pass


def pool(workers: int = 1, make: MakeToy = MakeToy()) -> LocalPool:  # noqa: B008
    return LocalPool(make, PoolOptions(workers=workers))


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_worker_keeps_what_it_has_built_from_round_to_round() -> None:
    with pool() as workers:
        ((first, before),) = workers.map_parcels([("history", None)], unheard)
        ((second, after),) = workers.map_parcels([("history", None)], unheard)
    assert (first, before) == (second, [])
    assert after == ["history"]


def test_commits_go_before_parcels_that_wait(tmp_path: Path) -> None:
    with pool() as workers:
        found = []
        for result in workers.map_parcels([("square", n) for n in range(1, 5)], unheard):
            found.append(result)
            if result == 1:
                workers.submit(("square", 100))
    assert found == [1, 10_000, 4, 9, 16]


def test_no_more_workers_are_started_than_there_are_tasks() -> None:
    with pool(workers=2) as workers:
        list(workers.map_parcels([("square", 1)], unheard))
        assert len(_workers()) == 1


def _workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "mien-worker"]


def test_a_commit_that_kills_its_last_worker_after_an_error_does_not_hide_it(tmp_path: Path) -> None:
    with LocalPool(MakeToy(), PoolOptions(workers=2)) as pool:
        pool.submit(("die_late_the_third_time", str(tmp_path / "mark")))
        with pytest.raises(StoreError, match=r"^the first error$"):
            list(pool.map_parcels([("fail_after", str(tmp_path / "mark"))], lambda frames: None))


def test_the_imports_of_workers_are_made_once_for_all_and_before_there_is_a_task(tmp_path: Path) -> None:
    mark = tmp_path / "prepared"
    with pool(make=MakeToy(str(mark))) as workers:
        preparing = int(until(lambda: mark.exists() and mark.read_text()))
        assert preparing != os.getpid()
        ((worker, _),) = workers.map_parcels([("history", None)], unheard)
        assert psutil.Process(worker).ppid() == preparing


def test_a_worker_has_one_thread() -> None:
    with pool() as workers:
        assert list(workers.map_parcels([("threads", None)], unheard)) == [1]


def test_when_the_process_that_starts_workers_is_killed_the_job_goes_on(tmp_path: Path) -> None:
    with pool(make=MakeToy(str(tmp_path / "prepared"))) as workers:
        found = []
        for result in workers.map_parcels([("square", n) for n in range(4)], unheard):
            found.append(result)
            if result == 1:
                os.kill(int((tmp_path / "prepared").read_text()), signal.SIGKILL)
    assert sorted(found) == [0, 1, 4, 9]


def test_workers_that_cannot_be_started_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "nowhere"))
    monkeypatch.setattr(local, "MODULE", "no_such_module")
    with pool() as workers, pytest.raises(MienError, match="the process that starts workers ended 3 times in a row"):
        list(workers.map_parcels([("square", 1)], unheard))


def test_what_workers_print_and_log_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pool() as workers:
        list(workers.map_parcels([("speak", "canary")], unheard))
    out, err = capfd.readouterr()
    assert out == ""
    printed, logged = err.splitlines()
    assert printed == "canary"
    assert json.loads(logged)["event"] == "canary"


def test_an_unexpected_error_leaves_its_traceback_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with pool() as workers, pytest.raises(MienError):
        list(workers.map_parcels([("stumble", None)], unheard))
    (line,) = capfd.readouterr().err.splitlines()
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_a_pool_that_was_not_used_ends_at_once_and_leaves_no_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pool():
        pass
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_driver(end: signal.Signals, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    pids = tmp_path / "pids"
    worker, child = map(int, until(lambda: pids.exists() and pids.read_text().split()))
    started = time.monotonic()
    if end == signal.SIGINT:
        os.killpg(driver.pid, end)  # as a terminal does
    else:
        driver.send_signal(end)
    _, said = driver.communicate(timeout=60)
    if end != signal.SIGKILL:
        assert time.monotonic() - started < 15
        assert said.count("Traceback") == 1  # the driver's own, as nothing here catches its KeyboardInterrupt
        assert said.strip().endswith("KeyboardInterrupt")
    until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)
    os.kill(child, signal.SIGKILL)


def test_a_container_s_share_of_the_cpus_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "cpu.max"
    monkeypatch.setattr(local, "_CPU_MAX", share)
    allowed = len(os.sched_getaffinity(0))
    assert local.cpus() == allowed
    for text, expected in (("max 100000", allowed), ("50000 100000", 1), ("100000000 100000", allowed)):
        share.write_text(text)
        assert local.cpus() == expected


def test_on_a_terminal_what_workers_write_stands_above_the_bar() -> None:
    screen = on_a_terminal(
        """
import time
from common import log
from common.progress import Progress
from common.run.local import LocalPool
from common.run.pool import PoolOptions
from toy_workers import MakeToy
log.configure()
with Progress(total=4, interval_s=0.01) as bar, LocalPool(MakeToy(), PoolOptions(workers=1)) as pool:
    bar.update(done=1)
    for result in pool.map_parcels([("speak", f"canary {n}") for n in range(3)], lambda frames: None):
        time.sleep(0.1)
"""
    )
    lines = [line for line in screen.replace("\r", "\n").splitlines() if "canary" in line]
    assert sum("warning" in line for line in lines) == 3  # each is printed and logged
    assert len(lines) == 6
    assert not any("%" in line or "{" in line for line in lines)
