"""A kill at any step of a whole job on a pool, then the same job again: the rows of an undisturbed run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import commit_world as world
import pytest

from common.cli import JobOptions
from common.commit.units import video_id
from common.errors import CommitConflict, MienError
from common.lake.format import claim
from common.run import runner
from common.run.local import LocalPool
from common.run.summary import Summary
from common.store.store import Store

ARCHIVE = {f"/tapes/{n}.mp4": "v1" for n in range(5)} | {"/tapes/bad.mp4": "bad-v1"}
VICTIM = "/tapes/3.mp4"
IN_A_VIDEO = [f"worker.attempt~{VICTIM}", f"piece.after~{video_id(VICTIM)}"]
EVERY_TIME = ["local.written~part-", "videos.before_create", "clean.strikes"]
ONCE = ["part.after_create~-00001", "ledger.after_create"]
DRIVER = """
import json, sys
import commit_world as world
from common.cli import JobOptions
from common.lake.format import claim
from common.run import runner
lake, archive = sys.argv[1], json.loads(sys.argv[2])
runner.run(world.destination(lake), world.listing(archive), world.WorldProcessor("scores"), JobOptions(lake, workers=1))
"""


@pytest.fixture(autouse=True)
def this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the world from here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def run(lake: str, table: str = "scores", crop_bytes: int = 4, **options: Any) -> Summary:
    destination, processor = world.destination(lake, table), world.WorldProcessor(table, crop_bytes)
    return runner.run(destination, world.listing(ARCHIVE), processor, JobOptions(lake, workers=1, **options))


@pytest.mark.parametrize("table", ["scores", "faces"])
def test_an_undisturbed_job_accounts_for_the_whole_archive(tmp_path: Path, table: str) -> None:
    lake = str(tmp_path / "lake")
    done = run(lake, table)
    assert (done.planned, done.ok, done.failed, done.skipped) == (6, 5, 1, 0)
    assert done.rows == len(world.expected(ARCHIVE, table))
    assert [failure["uri"] for failure in done.failures] == ["/tapes/bad.mp4"]
    world.audit(lake, table, ARCHIVE)
    again = run(lake, table)
    assert (again.planned, again.rows, again.skipped) == (0, 0, 6)


@pytest.mark.parametrize("point", ONCE)
def test_a_commit_that_is_cut_off_is_finished_by_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv("MIEN_FAULT", f"{point}:kill")
    assert run(str(tmp_path / "lake"), "faces").ok == 5
    world.audit(str(tmp_path / "lake"), "faces", ARCHIVE)


@pytest.mark.parametrize("point", EVERY_TIME)
def test_a_commit_that_kills_its_worker_is_named_and_the_next_run_changes_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    lake = str(tmp_path / "lake")
    monkeypatch.setenv("MIEN_FAULT", f"{point}:kill")
    with pytest.raises(MienError, match=r"the commit of unit u\w+ killed its worker 3 times"):
        run(lake, "faces")
    monkeypatch.delenv("MIEN_FAULT")
    run(lake, "faces")
    world.Committer(world.destination(lake, "faces")).reconcile()
    world.audit(lake, "faces", ARCHIVE)


@pytest.mark.parametrize("point", IN_A_VIDEO)
def test_a_video_that_kills_its_worker_is_worker_lost_until_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    lake = str(tmp_path / "lake")
    monkeypatch.setenv("MIEN_FAULT", f"{point}:kill")
    done = run(lake)
    assert (done.ok, done.failed) == (4, 2)
    lost = {failure["uri"]: failure for failure in done.failures}[VICTIM]
    assert lost["reason"] == "worker_lost"
    assert lost["message"].startswith("3 attempts ended without a result")
    monkeypatch.delenv("MIEN_FAULT")
    assert run(lake, retry_failed="worker_lost").ok == 1
    world.audit(lake, "scores", ARCHIVE)


def test_a_job_ends_if_workers_are_killed_whenever_they_record_that_a_video_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = str(tmp_path / "lake")
    monkeypatch.setenv("MIEN_FAULT", f"outcome.before~{video_id(VICTIM)}:kill")
    with pytest.raises(MienError, match=f"3 workers were killed while they recorded that {VICTIM} failed"):
        run(lake)
    monkeypatch.delenv("MIEN_FAULT")
    run(lake)
    world.audit(lake, "scores", ARCHIVE)


@pytest.mark.parametrize("point", ["strike.after", "part.after_create", "ledger.before_create"])
def test_a_driver_killed_while_its_worker_is_at_some_step_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    lake = str(tmp_path / "lake")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, lake, json.dumps(ARCHIVE)],
        env=os.environ | {"MIEN_FAULT": f"{point}:hang"},
        stderr=subprocess.DEVNULL,
    )
    mark = {"strike.after": "_strikes", "part.after_create": "scores", "ledger.before_create": "videos"}[point]
    folder = Path(lake, mark)
    deadline = time.monotonic() + 120
    while not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    run(lake)
    world.Committer(world.destination(lake)).reconcile()
    world.audit(lake, "scores", ARCHIVE)


def test_a_commit_s_conflict_ends_the_job_with_its_own_sentence(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    destination = world.destination(lake)
    committer = world.Committer(destination)
    claim(destination.lake)
    committer.plan.extend(world.listing(ARCHIVE))
    (unit,) = committer.pending()
    destination.lake.store.create(destination.lake.part_key(destination.data, unit.id), b"somebody else's")
    with pytest.raises(CommitConflict, match="was not written by this program: move it out of the lake"):
        run(lake)


def test_no_row_passes_through_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it reads, writes and is told grows with videos, not with their rows."""
    moved = {"read": 0, "written": 0, "told": 0}

    def counting(name: str, kind: str, size: Callable[..., int]) -> None:
        original = getattr(Store, name)

        def counted(self: Store, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            moved[kind] += size(result, *arguments)
            return result

        monkeypatch.setattr(Store, name, counted)

    counting("read_versioned", "read", lambda result, *_: len(result[0]))
    counting("download", "read", lambda _, key, path, *__: path.stat().st_size)
    counting("create", "written", lambda _, key, data: data.stat().st_size if isinstance(data, Path) else len(data))
    counting(
        "replace", "written", lambda _, key, data, *__: data.stat().st_size if isinstance(data, Path) else len(data)
    )

    def opened(self: Store, key: str) -> BinaryIO:
        raise AssertionError(f"the driver opened {key}")

    monkeypatch.setattr(Store, "open_input", opened)
    results = LocalPool.map_parcels

    def told(self: LocalPool, parcels: Sequence[Any], on_frames: Callable[[int], None]) -> Generator[Any, None, None]:
        for result in results(self, parcels, on_frames):
            moved["told"] += len(pickle.dumps(result))
            yield result

    monkeypatch.setattr(LocalPool, "map_parcels", told)
    done = run(str(tmp_path / "lake"), "faces", 100_000)
    assert done.rows == len(world.expected(ARCHIVE, "faces"))
    assert sum(path.stat().st_size for path in Path(tmp_path, "lake", "faces").rglob("*.parquet")) > 2_000_000
    assert moved["read"] == 0
    assert moved["written"] < 10_000  # the plan, the configuration, the account of the run
    assert moved["told"] < 5_000
