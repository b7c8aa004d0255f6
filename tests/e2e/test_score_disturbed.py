"""Kills and Ctrl-C during `mien score` change no row."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import assert_same, mien, rows, start, table

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_and_a_second_command_give_the_rows_of_an_undisturbed_run(
    victim: str, archive: Path, bundle: Path, golden: list[dict[str, Any]], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    command = ("score", archive, "--lake", lake, "--model", bundle, "--workers", 1, "--json")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(*command, TMPDIR=str(temporary))
    _wait_for(lambda: any(lake.glob("_staging/**/*.parquet")))
    if victim == "driver":
        process.kill()
        process.wait()
        time.sleep(2)
    else:
        _workers_of(process.pid)[0].kill()
    process.communicate(timeout=800)
    done = mien(*command, TMPDIR=str(temporary))
    assert done.status == 0, done.stderr
    assert list(temporary.iterdir()) == []
    assert_same(rows(lake), golden)
    attempts = [row["attempts"] for row in table(lake, "videos").to_pylist()]
    assert sum(attempts) <= len(attempts) + 1


def _wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the job did not get that far"
        time.sleep(0.05)


def _workers_of(driver: int) -> list[psutil.Process]:
    processes = psutil.Process(driver).children(recursive=True)
    return [process for process in processes if process.name() == "mien-worker"]


def test_ctrl_c_ends_within_seconds_and_loses_nothing_committed(archive: Path, bundle: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start("score", archive, "--lake", lake, "--model", bundle, "--workers", 1, TMPDIR=str(temporary))
    _wait_for(lambda: any(lake.glob("_staging/**/*.parquet")))
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(temporary.iterdir()) == []


def test_a_video_that_kills_its_worker_every_time_is_worker_lost_and_its_neighbours_are_scored(
    archive: Path, bundle: Path, golden: list[dict[str, Any]], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    victim = sorted(archive.glob("*.mp4"))[0]
    done = mien(
        "score", archive, "--lake", lake, "--model", bundle, "--json", MIEN_FAULT=f"worker.attempt~{victim.name}:kill"
    )
    assert done.status == 3, done.stderr
    assert victim.name in done.stderr
    videos = {row["uri"]: row for row in table(lake, "videos").to_pylist()}
    assert (videos[str(victim)]["status"], videos[str(victim)]["reason"]) == ("failed", "worker_lost")
    assert videos[str(victim)]["attempts"] == 3
    assert_same(rows(lake), [row for row in golden if row["uri"] != victim.name])

    retried = mien("score", archive, "--lake", lake, "--model", bundle, "--json", "--retry-failed", "worker_lost")
    assert retried.status == 0, retried.stderr
    assert_same(rows(lake), golden)
