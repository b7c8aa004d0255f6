"""How a job groups its work and what it says at its end; the job itself is run by the tests from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli import JobOptions
from common.commit.committer import Destination
from common.commit.record import LedgerRecord, Outcome
from common.commit.units import LISTING, Unit, Video
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES
from common.run.runner import MAX_FAILURES_SHOWN, PARCEL_BYTES, PARCEL_VIDEOS, Summary, parcels, run, tell
from common.store.store import Store

SIZES = st.lists(st.integers(0, 3 * PARCEL_BYTES) | st.integers(0, 2000), max_size=3 * PARCEL_VIDEOS)


def videos(sizes: list[int]) -> list[Video]:
    return [Video(f"/v/{number}.mp4", "1", size, "u1") for number, size in enumerate(sizes)]


@given(SIZES)
def test_every_video_is_in_one_parcel_the_largest_first(sizes: list[int]) -> None:
    given_out = [video for parcel in parcels(videos(sizes)) for video in parcel]
    assert sorted(video["uri"] for video in given_out) == sorted(video.uri for video in videos(sizes))
    assert [video["size"] for video in given_out] == sorted(sizes, reverse=True)


@given(SIZES)
def test_parcels_are_of_bounded_size_unless_they_are_of_one_video(sizes: list[int]) -> None:
    for parcel in parcels(videos(sizes)):
        assert len(parcel) <= PARCEL_VIDEOS
        assert len(parcel) == 1 or sum(video["size"] for video in parcel) <= PARCEL_BYTES


def committed(statuses: list[str]) -> tuple[LedgerRecord, Unit]:
    """A unit of videos that ended so, each with three frames."""
    unit = Unit("u1", tuple(videos([1] * len(statuses))))
    rows: list[dict[str, Any]] = [
        {
            "uri": video.uri,
            "video_id": video.video_id,
            "status": status,
            "reason": None if status == "ok" else "decode_error",
            "message": None if status == "ok" else f"key is {'A' * 40}",
            "frames": 3,
        }
        for video, status in zip(unit.videos, statuses, strict=True)
    ]
    return LedgerRecord("u1", "scores/model=m/archive=a", 1, tuple(Outcome(row, 0, "a1", {0: 3}) for row in rows)), unit


def test_a_summary_counts_every_video_and_keeps_the_failures_that_are_shown() -> None:
    summary = Summary(planned=MAX_FAILURES_SHOWN + 20)
    summary.add(*committed(["failed"] * MAX_FAILURES_SHOWN + ["partial"] * 10 + ["ok"] * 10))
    assert (summary.ok, summary.partial, summary.failed) == (10, 10, MAX_FAILURES_SHOWN)
    assert (summary.frames, summary.rows) == (3 * summary.planned, 3 * summary.planned)
    assert len(summary.failures) == MAX_FAILURES_SHOWN


def test_failures_are_named_up_to_a_number_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(planned=MAX_FAILURES_SHOWN + 5)
    summary.add(*committed(["failed"] * (MAX_FAILURES_SHOWN + 5)))
    assert tell(summary, JobOptions(lake="lake", json=True)) == 3
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert sum("/v/" in line for line in lines) == MAX_FAILURES_SHOWN
    assert "... and 5 more: see the table videos" in lines
    assert json.loads(captured.out)["failed"] == MAX_FAILURES_SHOWN + 5


def test_a_job_without_failures_ends_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Summary(planned=1, ok=1), JobOptions(lake="lake")) == 0
    assert tell(Summary(planned=1, partial=1), JobOptions(lake="lake")) == 0


def test_a_dry_run_names_what_it_would_do_and_counts_as_done_nothing_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(Store(str(tmp_path / "lake")))
    data = Partition("scores", (("model", "m"), ("archive", "a")))
    destination = Destination(lake, data, data.videos, SCORES, {})
    rows = [{"video_id": v.video_id, "uri": v.uri, "version": "1", "size": 1} for v in videos([1] * 50)]
    listing = pa.RecordBatch.from_pylist(rows, LISTING)
    summary = run(destination, [listing], pytest.fail, JobOptions(lake="lake", limit=2, dry_run=True))
    assert (summary.planned, summary.skipped) == (2, 0)
    assert set(capsys.readouterr().out.splitlines()) == {"/v/0.mp4", "/v/1.mp4"}
    assert not (tmp_path / "lake").exists()
