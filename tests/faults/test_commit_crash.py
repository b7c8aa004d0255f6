"""A kill at any step of plan, staging and commit, then the same command again: the rows of an undisturbed run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import commit_world as world
import pytest

ARCHIVE = {f"/tapes/{n}.mp4": "v1" for n in range(5)} | {"/tapes/bad.mp4": "bad-v1"}
CHANGED = ARCHIVE | {"/tapes/1.mp4": "v2", "/tapes/3.mp4": "v2", "/tapes/4.mp4": "bad-v2", "/tapes/6.mp4": "v1"}

WORKER = ["strike.before", "strike.after", "piece.before", "piece.after", "outcome.before", "outcome.after"]
CLEANING = ["clean.before", "clean.strikes", "clean.after"]
FIRST = [
    "plan.before_put",
    "plan.after_put",
    *WORKER,
    *(f"local.written~{place}" for place in ("part-", "videos/", "_ledger/")),
    *(f"{kind}.{when}_create" for kind in ("part", "videos", "ledger") for when in ("before", "after")),
    *CLEANING,
]
REVISED = [
    "plan.before_put",
    "plan.after_put",
    *WORKER,
    *(f"{kind}.{when}_replace" for kind in ("part", "videos", "ledger") for when in ("before", "after")),
    *CLEANING,
]
LATER_PARTS = ["part.before_{}~-00001", "part.after_{}~-00001", "part.before_{}~-00002"]


def cases(points: list[str], action: str) -> list[tuple[str, str]]:
    later = [point.format(action) for point in LATER_PARTS]
    return [("scores", point) for point in points] + [("faces", point) for point in points + later]


def crash_and_run_again(url: str, table: str, archive: dict[str, str], point: str, **options: bool) -> None:
    assert world.run_in_child(url, table, archive, fault=f"{point}:kill", **options) == -signal.SIGKILL
    world.run(url, table, archive, **options)


@pytest.mark.parametrize(("table", "point"), cases(FIRST, "create"))
def test_a_kill_during_a_first_run_changes_no_row(tmp_path: Path, table: str, point: str) -> None:
    lake = str(tmp_path / "lake")
    crash_and_run_again(lake, table, ARCHIVE, point)
    world.Committer(world.destination(lake, table)).reconcile()
    world.audit(lake, table, ARCHIVE)
    assert world.run(lake, table, ARCHIVE) == []


@pytest.mark.parametrize(("table", "point"), cases(REVISED, "replace"))
def test_a_kill_while_changed_videos_are_replaced_changes_no_row(tmp_path: Path, table: str, point: str) -> None:
    lake = str(tmp_path / "lake")
    world.run(lake, table, ARCHIVE)
    crash_and_run_again(lake, table, CHANGED, point)
    world.Committer(world.destination(lake, table)).reconcile()
    world.audit(lake, table, CHANGED)
    assert world.run(lake, table, CHANGED) == []


@pytest.mark.parametrize("point", REVISED)
def test_a_kill_while_a_failure_is_tried_again_changes_no_row(tmp_path: Path, point: str) -> None:
    lake = str(tmp_path / "lake")
    archive = {"/tapes/1.mp4": "v1", "/tapes/bad.mp4": "bad-v1"}
    world.run(lake, "scores", archive)
    assert world.run_in_child(lake, "scores", archive, fault=f"{point}:kill", retry=True, heal=True) == -signal.SIGKILL
    # Not asked for again, but the plan remembers; unless the kill came before it was planned.
    world.run(lake, "scores", archive, heal=True, retry=point == "plan.before_put")
    rows = world.content(lake, "scores")
    healed = world.frames_of("/tapes/bad.mp4", "v1")
    assert len({frame for uri, frame, *_ in rows if uri == "/tapes/bad.mp4"}) == healed
    assert len(rows) == len(set(rows))
    committer = world.Committer(world.destination(lake, "scores"))
    committer.reconcile()
    outcomes = [outcome for record in committer.records() for outcome in record.videos]
    assert [outcome.row["status"] for outcome in outcomes] == ["ok", "ok"]
    assert sum(outcome.rows for outcome in outcomes) == len(rows)


@pytest.mark.parametrize("table", ["scores", "faces"])
def test_a_version_that_changes_between_a_crash_and_the_next_run_replaces_only_that_video(
    tmp_path: Path, table: str
) -> None:
    for point in ("part.after_create", "part.after_create~-00001", "videos.after_create", "ledger.before_create"):
        lake = str(tmp_path / f"{table}-{point}")
        if table == "scores" and "~" in point:
            continue
        assert world.run_in_child(lake, table, ARCHIVE, fault=f"{point}:kill") == -signal.SIGKILL
        world.run(lake, table, CHANGED)
        world.Committer(world.destination(lake, table)).reconcile()
        world.audit(lake, table, CHANGED)


def test_one_video_at_most_is_done_again_after_a_kill(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    archive = {f"/tapes/{n}.mp4": "v1" for n in range(3)}
    last = max(archive, key=world.video_id)
    point = f"outcome.before~{world.video_id(last)}"
    assert world.run_in_child(lake, "scores", archive, fault=f"{point}:kill") == -signal.SIGKILL
    destination = world.destination(lake)
    (unit,) = world.Committer(destination).pending()
    assert world.Committer(destination).staged(unit) == {world.video_id(uri) for uri in archive} - {
        world.video_id(last)
    }
    strikes = {video.uri: len(world.Staging(destination).strikes(video)) for video in unit.videos}
    assert strikes == dict.fromkeys(archive, 1)
    world.run(lake, "scores", archive)
    world.audit(lake, "scores", archive)


def test_reconcile_rebuilds_a_lost_ledger_from_the_parts(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    world.run(lake, "faces", ARCHIVE)
    committer = world.Committer(world.destination(lake, "faces"))
    store = committer.destination.lake.store
    before = {entry.key: store.read(entry.key) for entry in store.list("_ledger/")}
    store.delete([*before, *(entry.key for entry in store.list("videos/"))])
    assert len(committer.reconcile().mended) == len(before)
    assert {entry.key: store.read(entry.key) for entry in store.list("_ledger/")} == before
    world.audit(lake, "faces", ARCHIVE)


@pytest.mark.parametrize(("table", "part"), [("scores", ""), ("faces", "-00000"), ("faces", "-00001")])
def test_reconcile_names_a_unit_whose_part_is_gone_and_its_advice_restores_every_row(
    tmp_path: Path, table: str, part: str
) -> None:
    lake = str(tmp_path / "lake")
    (first, _) = world.run(lake, table, ARCHIVE)
    committer = world.Committer(world.destination(lake, table))
    store = committer.destination.lake.store
    store.delete(entry.key for entry in store.list() if entry.key.endswith(f"{first.unit}{part}.parquet"))
    (problem,) = committer.reconcile().problems
    assert first.unit in problem
    assert "remove every object named after the unit and run the job again" in problem
    store.delete(entry.key for entry in store.list() if first.unit in entry.key)
    world.run(lake, table, ARCHIVE)
    world.audit(lake, table, ARCHIVE)


def test_reconcile_names_a_part_that_was_restored_from_too_old_a_copy(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    archive = {"/tapes/1.mp4": "v1"}
    (record,) = world.run(lake, "scores", archive)
    committer = world.Committer(world.destination(lake))
    part = Path(lake) / committer.destination.lake.part_key(committer.destination.data, record.unit)
    old = part.read_bytes()
    world.run(lake, "scores", {"/tapes/1.mp4": "v2"})
    part.write_bytes(old)
    (problem,) = committer.reconcile().problems
    assert record.unit in problem
    assert "is of a later commit than part 0: restore it from a copy" in problem


def test_reconcile_passes_over_files_that_are_no_parts(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    world.run(lake, "scores", ARCHIVE)
    committer = world.Committer(world.destination(lake))
    for stray in (f"{committer.destination.data}/_SUCCESS", f"_ledger/{committer.destination.data}/.DS_Store"):
        committer.destination.lake.store.create(stray, b"x")
    found = committer.reconcile()
    assert (found.units, found.mended, found.problems) == (2, (), ())


@pytest.mark.parametrize("table", ["scores", "faces"])
def test_a_full_disk_during_a_commit_is_one_sentence_and_changes_no_row(
    tmp_path: Path, table: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = str(tmp_path / "lake")
    committer = world.Committer(world.destination(lake, table))
    committer.plan.extend(world.listing(ARCHIVE), unit_videos=3)
    unit = committer.pending()[0]
    world.stage(committer.destination, unit)
    before = sorted(entry.key for entry in committer.destination.lake.store.list())

    def commit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        committer.commit(unit)

    assert world.wait(world.start(commit)) == 1
    said = capfd.readouterr().err
    assert said.startswith("StoreError: cannot write")
    assert "full, make room" in said
    assert sorted(entry.key for entry in committer.destination.lake.store.list()) == before
    world.run(lake, table, ARCHIVE)
    world.audit(lake, table, ARCHIVE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "point"),
    [
        pytest.param("scores", "plan.after_put", marks=pytest.mark.soak),
        pytest.param("scores", "outcome.before", marks=pytest.mark.soak),
        ("faces", "part.after_create~-00001"),
        pytest.param("faces", "videos.after_create", marks=pytest.mark.soak),
        ("scores", "ledger.after_create"),
    ],
)
def test_a_kill_during_a_run_on_s3_changes_no_row(s3_url: str, tmp_path: Path, table: str, point: str) -> None:
    archive = tmp_path / "archive.json"
    for videos in (ARCHIVE, CHANGED):
        archive.write_text(json.dumps(videos))
        command = [sys.executable, world.__file__, s3_url, table, str(archive)]
        fault = point.replace("_create", "_replace") if videos is CHANGED else point
        killed = subprocess.run(command, env=os.environ | {"MIEN_FAULT": f"{fault}:kill"}, check=False)
        assert killed.returncode == -signal.SIGKILL
        world.run(s3_url, table, videos)
        world.Committer(world.destination(s3_url, table)).reconcile()
        world.audit(s3_url, table, videos)
