"""`mien score` on a Ray cluster writes the rows of a run on local processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from commands import assert_same, mien, rows, start

from common.store.store import Store

pytestmark = pytest.mark.slow


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
def test_scoring_from_faces_gives_a_row_per_frame_as_scoring_from_videos_does(
    archive: Path, ingested: Path, bundle: Path, golden: list[dict[str, Any]], cluster: dict[str, str]
) -> None:
    done = mien("score", archive, "--from-faces", "--lake", ingested, "--model", bundle, "--json", **cluster)
    assert done.status == 0, done.stderr
    found = rows(ingested)
    keys = ("uri", "frame_index", "track_id", "face_status", "time_s")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in golden]
    assert max(abs(a["valence"] - b["valence"]) for a, b in zip(found, golden, strict=True)) < 0.1  # crops were JPEG


def test_a_cluster_that_is_not_there_is_named_in_one_sentence(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = mien("score", archive, "--lake", tmp_path / "lake", "--model", bundle, RAY_ADDRESS="127.0.0.1:1")
    assert done.status == 1
    assert done.stderr.splitlines()[-1].startswith("mien: Ray at 127.0.0.1:1 cannot be reached")
    assert "Traceback" not in done.stderr
