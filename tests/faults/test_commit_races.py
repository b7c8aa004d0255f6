"""Several runs at once, and runs that wake up long after others went on: no row doubled, none lost, none taken back."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commit_world as world
import pytest

from common.commit.publish import Publisher
from common.commit.units import Video
from common.errors import StoreError
from common.lake import parts

ARCHIVE = {f"/tapes/{n}.mp4": "v1" for n in range(5)} | {"/tapes/bad.mp4": "bad-v1"}
GROWN = ARCHIVE | {f"/tapes/{n}.mp4": "v1" for n in range(6, 9)}
CHANGED = GROWN | {"/tapes/1.mp4": "v2", "/tapes/3.mp4": "v2"}

STEPS = [
    "plan.before_put",
    "plan.after_put",
    "strike.before",
    "piece.before",
    "outcome.before",
    "part.before_create",
    "part.after_create",
    "videos.before_create",
    "videos.after_create",
    "ledger.before_create",
    "ledger.after_create",
    "clean.before",
    "clean.strikes",
]
REVISING_STEPS = [step.replace("_create", "_replace") for step in STEPS]


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Ids of the processes that a test paused: none is left behind."""
    started: list[int] = []
    yield started
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def everything(url: str) -> dict[str, bytes]:
    store = world.destination(url).lake.store
    return {entry.key: store.read(entry.key) for entry in store.list() if not entry.key.startswith(("_sta", "_str"))}


@pytest.mark.parametrize("table", ["scores", "faces"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_continues_after_the_archive_changed_undoes_nothing(
    tmp_path: Path, processes: list[int], table: str, step: str
) -> None:
    lake = str(tmp_path / "lake")
    zombie = world.start(world.run, lake, table, ARCHIVE, fault=f"{step}:stop")
    processes.append(zombie)
    world.wait_until_stopped(zombie)
    world.run(lake, table, GROWN)
    world.run(lake, table, CHANGED)
    world.audit(lake, table, CHANGED, staging=False)
    before = everything(lake)
    assert world.resume(zombie) == 0
    assert everything(lake) == before
    world.Committer(world.destination(lake, table)).reconcile()
    world.audit(lake, table, CHANGED)


@pytest.mark.parametrize("step", REVISING_STEPS)
def test_an_earlier_revision_that_continues_late_undoes_nothing_of_a_later_one(
    tmp_path: Path, processes: list[int], step: str
) -> None:
    lake = str(tmp_path / "lake")
    world.run(lake, "faces", GROWN)
    zombie = world.start(world.run, lake, "faces", CHANGED, fault=f"{step}:stop")
    processes.append(zombie)
    world.wait_until_stopped(zombie)
    latest = CHANGED | {"/tapes/1.mp4": "v3", "/tapes/2.mp4": "v3"}
    world.run(lake, "faces", latest)
    world.audit(lake, "faces", latest, staging=False)
    before = everything(lake)
    assert world.resume(zombie) == 0
    assert everything(lake) == before
    world.Committer(world.destination(lake, "faces")).reconcile()
    world.audit(lake, "faces", latest)


def test_cleaning_up_late_spares_what_is_staged_of_a_later_revision(tmp_path: Path, processes: list[int]) -> None:
    lake = str(tmp_path / "lake")
    archive = {"/tapes/1.mp4": "v1"}
    zombie = world.start(world.run, lake, "scores", archive, fault="clean.before:stop")
    processes.append(zombie)
    world.wait_until_stopped(zombie)
    destination = world.destination(lake)
    committer = world.Committer(destination)
    changed = {"/tapes/1.mp4": "v2"}
    committer.plan.extend(world.listing(changed))
    (unit,) = committer.pending()
    world.stage(destination, unit)
    assert world.resume(zombie) == 0
    committer.commit(unit)
    world.audit(lake, "scores", changed)


def run_many(url: str, archives: list[dict[str, str]]) -> None:
    pids = [world.start(world.run, url, "scores", archive) for archive in archives]
    assert [world.wait(pid) for pid in pids] == [0] * len(pids)


def test_concurrent_runs_over_different_listings_publish_no_row_twice(tmp_path: Path) -> None:
    for attempt in range(3):
        lake = str(tmp_path / f"lake-{attempt}")
        archive = {f"/tapes/{n}.mp4": "v1" for n in range(24)}
        run_many(lake, [dict(list(archive.items())[: 6 * n]) for n in range(1, 5)])
        plan = world.Committer(world.destination(lake)).plan
        plan.load()
        planned = [video.uri for unit in plan.units() for video in unit.videos]
        assert sorted(planned) == sorted(archive)
        world.Committer(world.destination(lake)).reconcile()
        world.audit(lake, "scores", archive)


def test_committers_racing_for_one_unit_publish_it_once(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    destination = world.destination(lake, "faces")
    committer = world.Committer(destination)
    committer.plan.extend(world.listing(ARCHIVE), unit_videos=100)
    (unit,) = committer.pending()
    world.stage(destination, unit)
    gate = time.monotonic() + 0.3

    def commit() -> None:
        time.sleep(max(0, gate - time.monotonic()))
        world.Committer(destination).commit(unit)

    pids = [world.start(commit) for _ in range(6)]
    assert [world.wait(pid) for pid in pids] == [0] * 6
    world.audit(lake, "faces", ARCHIVE)


def test_a_commit_by_another_process_between_read_and_copy_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = str(tmp_path / "lake")
    destination = world.destination(lake)
    changed = {"/tapes/1.mp4": "v1", "/tapes/2.mp4": "v2"}
    other, committer = world.Committer(destination), world.Committer(destination)
    other.plan.extend(world.listing(changed | {"/tapes/2.mp4": "v1"}))
    (before,) = other.pending()
    committer.plan.extend(world.listing(changed))
    (unit,) = committer.pending()
    for staged in (before, unit):
        world.stage(destination, staged)
    copy = Publisher._copy_piece

    def commit_first(*arguments: Any) -> None:
        monkeypatch.undo()
        other.commit(before)
        copy(*arguments)

    monkeypatch.setattr(Publisher, "_copy_piece", commit_first)
    committer.commit(unit)
    world.audit(lake, "scores", changed)


@pytest.mark.parametrize("trouble", ["a read error", "a part of somebody else"])
def test_a_part_that_cannot_be_read_is_not_taken_for_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    lake = str(tmp_path / "lake")
    (record,) = world.run(lake, "scores", {"/tapes/1.mp4": "v1"})
    publisher = Publisher(world.destination(lake))
    key = publisher.part_key(record.unit, 0)
    if trouble == "a read error":

        def stale(*_: object) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(parts.pq, "ParquetFile", stale)
        with pytest.raises(StoreError, match=r"cannot read .*part-u.*Stale"):
            publisher.footer(key)
    else:
        path = Path(lake) / key
        path.write_bytes(b"PAR1" + bytes(64) + path.read_bytes()[-60:])
        with pytest.raises(world.CommitConflict, match="not written by this program"):
            publisher.footer(key)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_revisions_racing_each_other_end_as_the_latest_plan_says(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lake = str(tmp_path / "lake") if where == "local" else request.getfixturevalue("s3_url")
    destination = world.destination(lake, "scores")
    world.run(lake, "scores", ARCHIVE)
    archive = dict(ARCHIVE)
    views: list[tuple[Any, Any]] = []
    for n in range(4):
        archive[f"/tapes/{n}.mp4"] = f"v{n + 2}"
        committer = world.Committer(destination)
        committer.plan.extend(world.listing(archive))
        units = list(committer.pending())
        for unit in units:
            world.stage(destination, unit)
        views.append((committer, units))

    def commit_all(view: tuple[Any, Any]) -> None:
        for unit in view[1]:
            view[0].commit(unit)

    if where == "local":
        pids = [world.start(commit_all, view) for view in views]
        assert [world.wait(pid) for pid in pids] == [0] * len(pids)
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(commit_all, views))
    world.audit(lake, "scores", archive)


def test_of_two_workers_that_finish_one_video_the_first_outcome_counts(tmp_path: Path) -> None:
    destination = world.destination(str(tmp_path / "lake"))
    committer = world.Committer(destination)
    committer.plan.extend(world.listing({"/tapes/1.mp4": "v1"}))
    (unit,) = committer.pending()
    (video,) = unit.videos
    staging = world.Staging(destination)
    with staging.writer(video, "first") as first, staging.writer(video, "second") as second:
        for writer in (first, second):
            writer.write(world.rows_of(video.uri, "v1", "scores"))
        assert second.finish(world.videos_row(video)).attempt == "second"
        assert first.finish(world.videos_row(video)).attempt == "second"
    assert staging.fail(video, world.videos_row(video)).attempt == "second"
    assert committer.commit(unit).videos[0].attempt == "second"


def test_a_part_of_somebody_else_is_never_overwritten(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    destination = world.destination(lake)
    committer = world.Committer(destination)
    committer.plan.extend(world.listing(ARCHIVE), unit_videos=100)
    (unit,) = committer.pending()
    world.stage(destination, unit)
    key = destination.lake.part_key(destination.data, unit.id)
    for foreign in (b"PAR1 but not really", b"x"):
        destination.lake.store.create(key, foreign)
        with pytest.raises(world.CommitConflict, match="part-u"):
            committer.commit(unit)
        assert destination.lake.store.read(key) == foreign
        destination.lake.store.delete([key])
    committer.commit(unit)
    world.audit(lake, "scores", ARCHIVE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.slice(1), "frames"),
        (lambda rows: rows.take([*range(len(rows)), len(rows) - 1]), "doubled"),
        (lambda rows: rows.take([*range(len(rows))][::-1]), "out of order"),
        (lambda rows: rows.set_column(14, "arousal", [[float("nan")] * len(rows)]), "NaN|arousal"),
        (lambda rows: rows.drop_columns(["valence"]), "valence"),
    ],
)
def test_rows_that_are_not_fit_to_publish_are_refused_before_anything_counts(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    destination = world.destination(str(tmp_path / "lake"))
    committer = world.Committer(destination)
    committer.plan.extend(world.listing({"/tapes/3.mp4": "v1"}))
    (unit,) = committer.pending()
    (video,) = unit.videos
    staging = world.Staging(destination)

    def attempt() -> None:
        with staging.writer(video, "a1") as writer:
            writer.write(spoil(world.rows_of(video.uri, "v1", "scores")))
            writer.finish(world.videos_row(video))

    with pytest.raises(ValueError, match=message):
        attempt()
    assert staging.outcome(video) is None
    assert list(destination.lake.store.list("_staging/")) == []
    with pytest.raises(world.MienError, match="not staged"):
        committer.commit(unit)


@pytest.mark.parametrize(
    ("known", "message"), [({"duration_s": float("nan")}, "duration_s is NaN"), ({"size": None}, "size is NULL")]
)
def test_a_row_of_videos_that_is_not_fit_to_publish_is_refused(tmp_path: Path, known: Any, message: str) -> None:
    destination = world.destination(str(tmp_path / "lake"))
    video = Video("/tapes/1.mp4", "v1", 9, "u1")
    with pytest.raises(ValueError, match=message):
        world.Staging(destination).fail(video, world.videos_row(video) | known)
    assert list(destination.lake.store.list()) == []
