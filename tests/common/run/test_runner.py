"""How a job groups its work and what it says at its end; the job itself is run by the tests from end to end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli import JobOptions
from common.commit.plan import PlanLog
from common.commit.staging import Destination
from common.commit.units import LISTING, Video
from common.lake.format import claim
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES
from common.run.runner import COUNTED_UNITS, PARCEL_BYTES, PARCEL_VIDEOS, parcels, run

SIZES = st.lists(st.integers(0, 3 * PARCEL_BYTES) | st.integers(0, 2000), max_size=3 * PARCEL_VIDEOS)


def videos(sizes: list[int]) -> list[Video]:
    return [Video(f"/v/{number}.mp4", "1", size, "u1") for number, size in enumerate(sizes)]


@given(SIZES)
def test_every_video_is_in_one_parcel_the_largest_first(sizes: list[int]) -> None:
    given_out = [video for parcel in parcels(videos(sizes)) for video in parcel.videos]
    assert sorted(video.uri for video in given_out) == sorted(video.uri for video in videos(sizes))
    assert [video.size for video in given_out] == sorted(sizes, reverse=True)


@given(SIZES)
def test_parcels_are_of_bounded_size_unless_they_are_of_one_video(sizes: list[int]) -> None:
    for parcel in parcels(videos(sizes)):
        assert len(parcel.videos) <= PARCEL_VIDEOS
        assert len(parcel.videos) == 1 or sum(video.size for video in parcel.videos) <= PARCEL_BYTES


def test_a_dry_run_names_what_it_would_do_and_counts_as_done_nothing_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    data = Partition("scores", (("model", "m"), ("archive", "a")))
    destination = Destination(lake, data, data.videos, SCORES, {})
    rows = [{"video_id": v.video_id, "uri": v.uri, "version": "1", "size": 1} for v in videos([1] * 50)]
    listing = pa.RecordBatch.from_pylist(rows, LISTING)
    summary = run(destination, [listing], pytest.fail, JobOptions(lake="lake", limit=2, dry_run=True))
    assert (summary.planned, summary.skipped) == (2, 0)
    assert set(capsys.readouterr().out.splitlines()) == {"/v/0.mp4", "/v/1.mp4"}
    assert not (tmp_path / "lake").exists()


def test_of_a_long_ledger_no_record_is_read_to_count_old_failures(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    data = Partition("scores", (("model", "m"), ("archive", "a")))
    rows = [{"video_id": v.video_id, "uri": v.uri, "version": "1", "size": 1} for v in videos([1])]
    listing = pa.RecordBatch.from_pylist(rows, LISTING)
    claim(lake)
    plan = PlanLog(lake, data)
    plan.extend([listing])
    (unit,) = plan.units()
    for name in (unit.id, *(f"u{number:032d}" for number in range(COUNTED_UNITS))):
        lake.store.create(lake.ledger_key(data, name), b"not to be read")
    summary = run(
        Destination(lake, data, data.videos, SCORES, {}), [listing], pytest.fail, JobOptions(lake="lake", dry_run=True)
    )
    assert (summary.skipped, summary.failed_before) == (1, None)
