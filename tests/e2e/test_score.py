"""`mien score` from end to end: what an undisturbed run writes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import av
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import mien, rows, table

pytestmark = pytest.mark.slow


def decoded(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(container.streams.best("video")))


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


def test_a_dry_run_prints_the_plan_and_writes_nothing(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = mien("score", archive, "--lake", tmp_path / "lake", "--model", bundle, "--dry-run", "--json")
    assert done.status == 0, done.stderr
    assert done.summary["planned"] == 4
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(map(str, archive.glob("*.mp4")))
    assert not (tmp_path / "lake").exists()


def test_parts_carry_their_ledger_record_and_no_extension_types(scored: Path) -> None:
    for part in (scored / "scores").rglob("*.parquet"):
        metadata = pq.read_metadata(part).metadata
        assert any(key.startswith(b"mien") for key in metadata)
        assert b"ARROW:extension:name" not in metadata
