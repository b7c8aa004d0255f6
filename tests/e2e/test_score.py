"""`mien score` from end to end: what an undisturbed run writes, and that no disturbance changes it."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import av
import pandas as pd
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import mien, rows, start, table

pytestmark = pytest.mark.slow

FLOATS = ("valence", "arousal", "expr_neutral", "expr_other", "au01", "au26", "det_score", "box_x0", "box_y1")


def decoded(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(container.streams.best("video")))


def assert_same(found: list[dict[str, Any]], golden: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    keys = ("uri", "frame_index", "track_id", "face_status", "time_s")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in golden]
    for mine, theirs in zip(found, golden, strict=True):
        for name in FLOATS:
            assert (mine[name] is None) == (theirs[name] is None)
            if mine[name] is not None:
                assert math.isclose(mine[name], theirs[name], abs_tol=tolerance * max(1, abs(theirs[name]) / 100))


@pytest.fixture(scope="module")
def scored(archive: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of an undisturbed run."""
    lake = tmp_path_factory.mktemp("lake")
    done = mien("score", archive, "--lake", lake, "--model", bundle, "--json")
    assert done.status == 0, done.stderr
    assert done.summary["planned"] == done.summary["ok"] == 4
    assert done.summary["skipped"] == done.summary["failed"] == 0
    return lake


@pytest.fixture(scope="module")
def golden(scored: Path) -> list[dict[str, Any]]:
    return rows(scored)


def test_every_decoded_frame_has_a_row_and_the_videos_table_accounts_for_them(scored: Path, archive: Path) -> None:
    scores = table(scored, "scores").to_pandas()
    videos = table(scored, "videos").to_pandas().set_index("uri")
    for clip in archive.glob("*.mp4"):
        mine = scores[scores.uri == str(clip)]
        assert sorted(set(mine.frame_index)) == list(range(decoded(clip)))
        assert videos.loc[str(clip), "frames"] == decoded(clip)
        assert videos.loc[str(clip), "status"] == "ok"


def test_a_second_run_scores_nothing_and_says_so(scored: Path, archive: Path, bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored.rglob("*.parquet")}
    done = mien("score", archive, "--lake", scored, "--model", bundle, "--json")
    assert done.status == 0
    assert (done.summary["planned"], done.summary["skipped"], done.summary["rows"]) == (0, 4, 0)
    assert {path: path.stat().st_mtime_ns for path in scored.rglob("*.parquet")} == before


@pytest.mark.parametrize(("command", "name"), [("score", "scores"), ("ingest", "faces")])
def test_an_archive_grows_and_has_each_row_once_however_its_videos_are_named_and_where_the_lake_is(
    command: str, name: str, archive: Path, tmp_path: Path
) -> None:
    first, second = (shutil.copy(clip, tmp_path) for clip in sorted(archive.glob("*.mp4"))[:2])
    options = ("--lake", tmp_path / "lake", "--every", 10, "--json")
    assert mien(command, first, *options).summary["ok"] == 1
    before = table(tmp_path / "lake", name)
    grown = mien(command, ".", *options, cwd=tmp_path)
    assert (grown.summary["planned"], grown.summary["skipped"]) == (1, 1), grown.stderr
    after = table(tmp_path / "lake", name)
    assert set(after["uri"].to_pylist()) == {first, second}
    assert after.filter(pc.equal(after["uri"], first)).equals(before)
    folders = {part.parent for part in (tmp_path / "lake" / name).rglob("*.parquet")}
    assert [folder.name for folder in folders] == ["archive=main"]


def test_smoothed_scores_are_means_of_the_plain_ones_under_another_model(
    archive: Path, bundle: Path, golden: list[dict[str, Any]], tmp_path: Path
) -> None:
    clip = min(archive.glob("*.mp4"))
    done = mien("score", clip, "--lake", tmp_path / "lake", "--model", bundle, "--smooth", "box:9")
    assert done.status == 0, done.stderr
    (model,) = (tmp_path / "lake" / "scores" / "schema=1").iterdir()
    assert "-box9-" in model.name
    plain = pd.DataFrame([row for row in golden if row["uri"] == clip.name])
    smoothed = pd.DataFrame(rows(tmp_path / "lake"))
    assert plain.track_id.nunique() == 1
    expected = plain[["valence", "expr_neutral", "au01"]].rolling(9, center=True, min_periods=1).mean()
    pd.testing.assert_frame_equal(smoothed[list(expected)], expected, atol=1e-4)


def test_a_later_run_says_how_many_of_its_videos_failed_before(tmp_path: Path) -> None:
    for name in ("a.srt", "b.srt"):
        (tmp_path / name).write_text("1\n00:00:01 --> 00:00:02\nno video")
    options = ("--lake", tmp_path / "lake", "--json")
    assert mien("ingest", tmp_path, *options).status == 3
    again = mien("ingest", tmp_path, *options)
    assert again.status == 0
    said, partition = again.stderr.splitlines()
    assert said == "nothing to do: all 2 videos were done before; 2 failed before (see mien status)"
    assert partition == f"ingest {again.summary['ingest']}, archive main"
    assert (tmp_path / "lake" / "videos" / "schema=1" / f"job=ingest-{again.summary['ingest']}").is_dir()
    counts = ("planned", "skipped", "failed", "failed_before")
    assert [again.summary[name] for name in counts] == [0, 2, 0, 2]
    one = mien("ingest", tmp_path / "a.srt", "--dry-run", *options)
    assert [one.summary[name] for name in counts] == [0, 1, 0, 1]
    retried = mien("ingest", tmp_path, "--retry-failed", "--dry-run", *options)
    assert [retried.summary[name] for name in counts] == [2, 0, 0, 0]


def test_rows_do_not_depend_on_workers_batch_size_order_or_the_folder_a_command_runs_in(
    archive: Path, bundle: Path, golden: list[dict[str, Any]], cluster: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("raise RuntimeError('the stranger was imported')")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('the stranger was imported')")
    clips = sorted(archive.glob("*.mp4"), reverse=True)
    (tmp_path / "list.txt").write_text("\n".join(os.path.relpath(clip, tmp_path) for clip in clips))
    model = os.path.relpath(bundle, tmp_path)
    options = ("--workers", 1, "--batch-size", 7)
    done = mien("score", "list.txt", "--lake", "lake", "--model", model, *options, cwd=tmp_path, **cluster)
    assert done.status == 0, done.stderr
    assert_same(rows(tmp_path / "lake"), golden)


def test_the_same_archive_and_lake_on_s3_give_the_same_rows(
    archive: Path, bundle: Path, golden: list[dict[str, Any]], s3_url: str, cluster: dict[str, str], tmp_path: Path
) -> None:
    from common.store.store import Store

    store = Store(s3_url)
    for clip in archive.glob("*.mp4"):
        store.create(f"clips/{clip.name}", clip)
    done = mien("score", f"{s3_url}/clips", "--lake", f"{s3_url}/lake", "--model", bundle, "--json", **cluster)
    assert done.status == 0, done.stderr
    for entry in store.list("lake/scores/"):
        store.download(entry.key, _parent(tmp_path / entry.key))
    assert_same(rows(tmp_path / "lake"), golden)
    again = mien("score", f"{s3_url}/clips", "--lake", f"{s3_url}/lake", "--model", bundle, "--json")
    assert (again.summary["planned"], again.summary["skipped"]) == (0, 4)


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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


def test_two_concurrent_runs_over_a_growing_archive_publish_no_row_twice(
    archive: Path, bundle: Path, golden: list[dict[str, Any]], cluster: dict[str, str], tmp_path: Path
) -> None:
    lake, clips = tmp_path / "lake", sorted(archive.glob("*.mp4"))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, clips[:2])))
    runs = [
        start("score", source, "--lake", lake, "--model", bundle, "--archive", "grown", "--workers", 1, **cluster)
        for source in (listed, archive)
    ]
    for run in runs:
        _, stderr = run.communicate(timeout=800)
        assert run.returncode == 0, stderr
    assert_same(rows(lake), golden)


def test_scoring_from_faces_gives_a_row_per_frame_as_scoring_from_videos_does(
    archive: Path, ingested: Path, bundle: Path, golden: list[dict[str, Any]], cluster: dict[str, str]
) -> None:
    done = mien("score", archive, "--from-faces", "--lake", ingested, "--model", bundle, "--json", **cluster)
    assert done.status == 0, done.stderr
    found = rows(ingested)
    keys = ("uri", "frame_index", "track_id", "face_status", "time_s")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in golden]
    assert max(abs(a["valence"] - b["valence"]) for a, b in zip(found, golden, strict=True)) < 0.1  # crops were JPEG


def test_a_dry_run_prints_the_plan_and_writes_nothing(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = mien("score", archive, "--lake", tmp_path / "lake", "--model", bundle, "--dry-run", "--json")
    assert done.status == 0, done.stderr
    assert done.summary["planned"] == 4
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(map(str, archive.glob("*.mp4")))
    assert not (tmp_path / "lake").exists()


def test_a_cluster_that_is_not_there_is_named_in_one_sentence(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = mien("score", archive, "--lake", tmp_path / "lake", "--model", bundle, RAY_ADDRESS="127.0.0.1:1")
    assert done.status == 1
    assert done.stderr.splitlines()[-1].startswith("mien: Ray at 127.0.0.1:1 cannot be reached")
    assert "Traceback" not in done.stderr


def test_parts_carry_their_ledger_record_and_no_extension_types(scored: Path) -> None:
    for part in (scored / "scores").rglob("*.parquet"):
        metadata = pq.read_metadata(part).metadata
        assert any(key.startswith(b"mien") for key in metadata)
        assert b"ARROW:extension:name" not in metadata
