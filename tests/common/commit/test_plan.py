"""The plan: every listed video once, in units made of content, whoever plans at the same time."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.commit import plan as plan_log
from common.commit.plan import PlanLog
from common.commit.units import LISTING, MISSING, Unit, Video, video_id
from common.lake.layout import Lake, Partition

PARTITION = Partition("scores", (("model", "demo-1"), ("archive", "clips")))


def batch(videos: dict[str, str], size: int = 10) -> pa.RecordBatch:
    columns = [
        pa.array([video_id(uri) for uri in videos], pa.string()),
        pa.array(list(videos), pa.string()),
        pa.array(list(videos.values()), pa.string()),
        pa.array([size] * len(videos), pa.int64()),
    ]
    return pa.record_batch(columns, schema=LISTING)


def tapes(count: int, version: str = "v1") -> dict[str, str]:
    return {f"/tapes/{n:03d}.mp4": version for n in range(count)}


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))


@pytest.fixture
def plan(tmp_path: Path) -> PlanLog:
    return PlanLog(Lake(str(tmp_path / "lake")), PARTITION)


def reloaded(plan: PlanLog) -> PlanLog:
    again = PlanLog(plan.lake, plan.partition)
    again.load()
    return again


def planned(plan: PlanLog) -> dict[str, str]:
    videos = [video for unit in reloaded(plan).units() for video in unit.videos]
    assert len({video.uri for video in videos}) == len(videos)
    return {video.uri: video.version for video in videos}


def test_a_video_id_is_made_from_the_canonical_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "x.mp4")
    assert video_id("./x.mp4") == video_id(path) == hashlib.sha256(path.encode()).hexdigest()[:32]
    assert Video("s3://b/x.mp4", "v", 1).video_id == hashlib.sha256(b"s3://b/x.mp4").hexdigest()[:32]


def test_each_listed_video_is_in_one_unit_with_its_neighbours(lake: Lake) -> None:
    plan = PlanLog(lake, PARTITION)
    assert plan.extend([batch(tapes(10))], unit_videos=4) == 10
    units = list(reloaded(plan).units())
    assert [sorted(video.uri[-7:-4] for video in unit.videos) for unit in units] == [
        ["000", "001", "002", "003"],
        ["004", "005", "006", "007"],
        ["008", "009"],
    ]
    for unit in units:
        assert [video.video_id for video in unit.videos] == sorted(video.video_id for video in unit.videos)
        assert {video.unit for video in unit.videos} == {unit.id}
        content = "\n".join(f"{video.video_id} v1" for video in unit.videos)
        assert unit.id == "u" + hashlib.sha256(content.encode()).hexdigest()[:31]


def test_units_end_where_their_bytes_do_but_hold_one_video_at_least(plan: PlanLog) -> None:
    sizes = [40, 60, 1, 500, 99, 1]
    listed = pa.Table.from_batches([batch(tapes(6))]).set_column(3, LISTING.field("size"), pa.array(sizes, pa.int64()))
    plan.extend(listed.to_batches(), unit_bytes=100)
    found = [sorted(video.size for video in unit.videos) for unit in plan.units()]
    assert found == [[40, 60], [1], [500], [1, 99]]


def test_units_of_faces_are_so_small_that_a_part_of_them_fits_one_put(plan: PlanLog) -> None:
    hours = [batch(tapes(256), size=4 << 20)]  # low bit rates: 2,000 frames a MiB, each with two faces of 9 kB
    faces = PlanLog(plan.lake, Partition("faces", (("ingest", "i-1"), ("archive", "clips"))))
    faces.extend(hours)
    largest = max(sum(video.size for video in unit.videos) for unit in faces.units())
    assert (largest >> 20) * 2_000 * 2 * 9_000 < 5 << 30
    plan.extend(hours)
    assert len(plan.units()) == 1


def test_other_files_beside_the_plan_are_passed_over(plan: PlanLog) -> None:
    plan.extend([batch(tapes(2))])
    for name in (".DS_Store", "00000002.parquet.part"):
        plan.lake.store.create(plan.lake.plan_prefix(PARTITION) + name, b"x")
    assert planned(plan) == tapes(2)


def test_what_is_planned_is_never_planned_again(plan: PlanLog) -> None:
    plan.extend([batch(tapes(5))])
    before = list(plan.units())
    assert reloaded(plan).extend([batch(tapes(5))]) == 0
    assert reloaded(plan).extend([batch(tapes(7))]) == 2
    assert list(reloaded(plan).units())[: len(before)] == before
    assert planned(plan) == tapes(7)


def test_a_video_listed_twice_is_planned_once(plan: PlanLog) -> None:
    assert plan.extend([batch(tapes(3)), batch(tapes(4)), batch(tapes(2))]) == 4
    assert planned(plan) == tapes(4)


def test_a_limit_plans_that_many_and_reads_no_further(plan: PlanLog) -> None:
    def endless() -> Iterator[pa.RecordBatch]:
        yield batch(tapes(5))
        yield batch(tapes(9))
        raise AssertionError("read on")

    assert plan.extend(endless(), limit=7) == 7
    assert len(planned(plan)) == 7
    assert reloaded(plan).extend([batch(tapes(9))], limit=1) == 1


def test_a_changed_video_is_planned_again_in_its_old_unit(plan: PlanLog) -> None:
    plan.extend([batch(tapes(6))], unit_videos=2)
    units = [unit.id for unit in plan.units()]
    changed = tapes(6) | {"/tapes/003.mp4": "v2"}
    assert plan.extend([batch(changed)]) == 1
    assert [unit.id for unit in reloaded(plan).units()] == units
    assert planned(plan) == changed
    (video,) = [v for unit in reloaded(plan).units() for v in unit.videos if v.version == "v2"]
    assert (video.revision, video.unit) == (2, units[1])


def test_done_units_come_back_only_with_what_was_planned_again_since(plan: PlanLog) -> None:
    plan.extend([batch(tapes(6))], unit_videos=2)
    done = {unit.id for unit in plan.units()}
    assert list(plan.units(done)) == []
    plan.extend([batch(tapes(6) | {"/tapes/003.mp4": "v2"})])
    asked: list[list[str]] = []

    def recorded(units: list[str]) -> dict[str, dict[str, int]]:
        asked.append(units)
        return {unit: {} for unit in units}

    (unit,) = plan.units(done, recorded)
    assert [video.uri for video in unit.videos] == ["/tapes/003.mp4"]
    assert asked == [[unit.id]]
    revisions = {unit.id: {video_id("/tapes/003.mp4"): 2}}
    assert list(plan.units(done, lambda units: revisions)) == []


def test_a_listing_older_than_the_plan_does_not_plan_old_versions(plan: PlanLog) -> None:
    plan.extend([batch(tapes(3))])

    def stale() -> Iterator[pa.RecordBatch]:
        yield batch(tapes(3, "v2"))
        reloaded(plan).extend([batch(tapes(3, "v3"))])  # others list later, and plan first

    assert plan.extend(stale()) == 0
    assert planned(plan) == tapes(3, "v3")


def test_a_retry_is_planned_once_and_not_over_a_newer_plan(plan: PlanLog) -> None:
    plan.extend([batch(tapes(2))])
    (unit,) = plan.units()
    other = reloaded(plan)
    assert plan.revise(unit.videos) == 2
    assert other.revise(unit.videos) == 0
    (again,) = reloaded(plan).units()
    assert again.id == unit.id
    assert [video.revision for video in again.videos] == [2, 2]
    assert plan.revise([]) == 0


def test_concurrent_planners_of_different_listings_plan_no_video_twice(lake: Lake) -> None:
    def extend(count: int) -> int:
        return PlanLog(lake, PARTITION).extend([batch(tapes(count))], unit_videos=3)

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(extend, [5, 10, 15, 20, 25, 30, 35, 40]))
    assert sum(counts) == 40
    assert planned(PlanLog(lake, PARTITION)) == tapes(40)


def test_a_plan_in_memory_writes_nothing(plan: PlanLog) -> None:
    assert plan.extend([batch(tapes(5))], put=False) == 5
    assert plan.units().videos == 5
    assert list(plan.lake.store.list()) == []


def test_an_empty_listing_plans_nothing(plan: PlanLog) -> None:
    assert plan.extend([]) == 0
    assert plan.extend([batch({})]) == 0
    assert list(plan.units()) == []
    assert list(plan.lake.store.list()) == []


def test_units_are_a_sequence(plan: PlanLog) -> None:
    plan.extend([batch(tapes(5))], unit_videos=2)
    units = plan.units()
    everything = list(units)
    assert isinstance(everything[0], Unit)
    assert (len(units), units[-1], list(units[1:])) == (3, everything[2], everything[1:])
    assert (units.videos, units.bytes) == (5, 50)
    assert plan.units({unit.id for unit in everything}).bytes == 0
    with pytest.raises(IndexError):
        units[3]


@pytest.mark.slow
def test_many_videos_are_planned_in_seconds_and_without_an_object_for_each(
    plan: PlanLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 80_000
    monkeypatch.setattr(plan_log, "ENTRY_VIDEOS", 40_000)
    digits = np.array([f"{n:03x}" for n in range(4096)])

    def listing() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, 4_000):
            number = np.arange(start, start + 4_000)
            mixed = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # spreads the ids as a hash does
            ids = [f"{value:016x}{value:016x}" for value in mixed.tolist()]
            uris = [f"s3://archive/2026/{digits[n % 4096]}/tape-{n:09d}.mp4" for n in number.tolist()]
            columns = [pa.array(ids), pa.array(uris), pa.array(ids), pa.array(np.full(len(ids), 30 << 20))]
            yield pa.record_batch(columns, schema=LISTING)

    tracemalloc.start()
    started = time.monotonic()
    assert plan.extend(listing()) == count
    assert reloaded(plan).extend(listing()) == 0
    wall = time.monotonic() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.last == 2
    assert wall < 24
    assert peak < 150 * count  # bytes of Python and NumPy objects; a `Video` for each would take more than 400


def test_a_planned_video_that_cannot_be_read_any_more_is_not_planned_again(plan: PlanLog) -> None:
    plan.extend([batch({"/tapes/a.mp4": "v1"})])
    assert plan.extend([batch({"/tapes/a.mp4": MISSING})]) == 0
    assert planned(plan) == {"/tapes/a.mp4": "v1"}
