"""Scoring what is ingested: which faces, under which name, and how little of the lake a video needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lakes import account, listing

from common.commit.committer import Committer
from common.commit.staging import Staging
from common.commit.units import Video
from common.crops import Crop
from common.errors import UsageError, VideoError
from common.faces import to_faces
from common.lake.format import claim
from common.lake.layout import Lake
from common.store.store import Store
from ingest.faces import FacesOptions
from ingest.job import IngestConfig, destination
from score.sources import ingested as from_faces
from score.sources.ingested import IngestedFaces

CROP = Crop(size=8)
CONFIG = IngestConfig(frames_per_part=20, faces=FacesOptions().model_copy(update={"align": Crop(size=8)}))


def videos(archive: str, count: int) -> list[Video]:
    return [Video(f"/{archive}/{n}.mp4", "1-1", 1 << 30) for n in range(count)]  # so large that each is a unit


@pytest.fixture
def ingest(make_faces) -> Callable[..., None]:
    """Commits the faces of videos as `mien ingest` does, without looking for them; no faces in videos of `failed`."""

    def run(lake: Lake, archive: str, listed: list[Video], *, failed: tuple[int, ...] = ()) -> None:
        made = destination(lake, archive, CONFIG)
        committer, staging = Committer(made), Staging(made)
        claim(lake)
        committer.record_config()
        committer.plan.extend([listing(listed)])
        for unit in committer.pending():
            (video,) = unit.videos
            if int(Path(video.uri).stem) in failed:
                staging.fail(video, account(video, status="failed", reason="not_video", message="no"))
            else:
                with staging.writer(video, "a" * 32) as writer:
                    for batch in make_faces({0: list(range(50))}, 60):
                        writer.write(to_faces(batch, video))
                    writer.finish(account(video, status="ok", frames=60))
            committer.commit(unit)

    return run


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_faces_come_back_frame_by_frame(lake: Lake, ingest) -> None:
    listed = videos("a", 2)
    ingest(lake, "a", listed)
    source = IngestedFaces(from_faces.find(lake, "a", None, CROP))
    for video in listed:
        with source.open(video) as stream:
            batches = list(stream)
            assert stream.account()["frames"] == 60
        assert [int(i) for batch in batches for i in batch.frame_index] == list(range(60))
        assert sum(len(batch.crops) for batch in batches) == 50


def test_one_bundle_over_two_archives_is_one_model(lake: Lake, ingest, tiny_bundle) -> None:
    from score import job

    models = set()
    for archive in ("a", "b"):
        ingest(lake, archive, videos(archive, 1))
        found = from_faces.find(lake, archive, None, tiny_bundle.manifest.crop.model_copy(update={"size": 8}))
        models.add(dict(job.destination(lake, archive, tiny_bundle, job.ScoreConfig(), found).data.keys)["model"])
    assert len(models) == 1


def test_a_video_reads_the_ledger_of_its_own_unit_only(lake: Lake, ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = videos("a", 8)
    ingest(lake, "a", listed)
    found = from_faces.find(lake, "a", None, CROP)
    records: list[str] = []
    read = Store.read_versioned

    def noted(self: Store, key: str) -> tuple[bytes, str]:
        if key.startswith("_ledger/"):
            records.append(key)
        return read(self, key)

    monkeypatch.setattr(Store, "read_versioned", noted)
    source = IngestedFaces(found)
    with source.open(listed[7]) as stream:
        assert sum(map(len, stream)) == 60
    assert len(records) == 1


def test_what_has_no_faces_says_why(lake: Lake, ingest) -> None:
    listed = videos("a", 3)
    ingest(lake, "a", listed[:2], failed=(1,))
    source = IngestedFaces(from_faces.find(lake, "a", None, CROP))
    reasons = {1: "missing", 2: "missing", 0: "changed"}
    for number, reason in reasons.items():
        with pytest.raises(VideoError) as caught, source.open(replace(listed[number], version="2-2")):
            pass
        assert caught.value.reason == reason


def test_several_ways_of_ingesting_are_told_apart_by_their_options(lake: Lake) -> None:
    plain, sparse = IngestConfig(), IngestConfig.model_validate({"jpeg_quality": 80, "faces": {"decode": {"every": 5}}})
    names = {}
    for config in (plain, sparse):
        made = destination(lake, "a", config)
        claim(lake)
        Committer(made).record_config()
        Committer(made).plan.extend([listing(videos("a", 1))])
        names[config] = made.data["ingest"]
    ways = [f"{names[plain]} (defaults)", f"{names[sparse]} (faces.decode.every=5, jpeg_quality=80)"]
    with pytest.raises(UsageError) as several:
        from_faces.find(lake, "a", None, CROP)
    assert str(several.value) == (
        f"archive a was ingested in several ways: choose one of {', '.join(sorted(ways))} with --ingest"
    )


def test_faces_that_are_not_there_or_not_fit_are_wrong_usage(lake: Lake, ingest) -> None:
    with pytest.raises(UsageError, match=r"no faces of archive a in .*: run `mien ingest` first"):
        from_faces.find(lake, "a", None, CROP)
    ingest(lake, "a", videos("a", 1))
    with pytest.raises(UsageError, match=r"no faces of archive b in .*: choose one of a with --archive"):
        from_faces.find(lake, "b", None, CROP)
    with pytest.raises(UsageError, match="choose one of i-"):
        from_faces.find(lake, "a", "i-0", CROP)
    with pytest.raises(
        UsageError, match=r"crops of 112 pixels and archive a has crops of 8 pixels: .* --set faces\.align\.size=112,"
    ):
        from_faces.find(lake, "a", None, Crop(size=112))
    with pytest.raises(
        UsageError, match=r"crops of 8 pixels with a margin of 0\.5 .* --set faces\.align\.margin=0\.5,"
    ):
        from_faces.find(lake, "a", None, CROP.model_copy(update={"margin": 0.5}))
