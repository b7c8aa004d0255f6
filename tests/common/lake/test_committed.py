"""Which parts of a lake count, and that committed rows are the ones that were given, for every reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lakes import account, listing, put_part, sample_rows

from common.commit.committer import Committer
from common.commit.staging import Destination, Staging
from common.commit.units import Video
from common.faces import FaceBatch, to_scores
from common.lake.committed import committed
from common.lake.format import claim
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES
from score.analysis.sql import connect
from score.analysis.status import status

DATA = Partition("scores", (("model", "demo-0123-4567"), ("archive", "clips")))


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))


def faces(frames: int, with_face: int) -> FaceBatch:
    """A face in the first `with_face` of so many frames."""
    return FaceBatch(
        frame_index=np.arange(frames, dtype=np.int32),
        time_s=np.arange(frames) / 25,
        duration_s=np.full(frames, 1 / 25),
        row=np.arange(with_face, dtype=np.int32),
        track_id=np.zeros(with_face, np.int32),
        box=np.ones((with_face, 4), np.float32),
        landmarks=np.ones((with_face, 5, 2), np.float32),
        score=np.ones(with_face, np.float32),
        yaw=np.zeros(with_face, np.float32),
        sharpness=np.ones(with_face, np.float32),
        status=np.full(with_face, "ok"),
        crops=np.zeros((with_face, 8, 8, 3), np.uint8),
    )


def test_rows_count_when_their_unit_is_committed_and_not_before(lake: Lake) -> None:
    claim(lake)
    destination = Destination(lake=lake, data=DATA, videos=DATA.videos, schema=SCORES, config={})
    listed = [Video(f"/clips/{name}.mp4", "1-1", 10) for name in "abc"]
    committer, staging = Committer(destination), Staging(destination)
    committer.plan.extend([listing(listed)])
    (unit,) = committer.pending()
    for video in unit.videos:
        if video.name == "c.mp4":
            staging.fail(video, account(video, status="failed", reason="not_video", message="no"))
            continue
        with staging.writer(video, "a" * 32) as writer:
            writer.write(to_scores(faces(400, 350), video, {"valence": np.zeros(350, np.float32)}))
            writer.finish(account(video, status="ok", frames=400, model=DATA["model"]))

    assert committed(lake, "scores") == []
    with connect(lake) as tables:
        assert list(tables.query("SELECT count(*) FROM scores")[1]) == [(0,)]
    committer.commit(unit)
    assert [part.key for part in committed(lake, "scores", DATA)] == [lake.part_key(DATA, unit.id)]
    with connect(lake) as tables:
        query = "SELECT count(*), count(DISTINCT (video_id, frame_index)), count(valence), any_value(model) FROM scores"
        assert list(tables.query(query)[1]) == [(800, 800, 700, DATA["model"])]
        assert list(tables.query("SELECT count(*), count(reason) FROM videos")[1]) == [(3, 1)]
        query = "SELECT video_name, sum(frame_duration_s) FROM scores JOIN videos USING (video_id, video_name, model)"
        assert list(tables.query(f"{query} GROUP BY ALL ORDER BY ALL")[1]) == [
            ("a.mp4", pytest.approx(16)),
            ("b.mp4", pytest.approx(16)),
        ]
    (found,) = status(lake).jobs
    assert (found.planned, found.ok, found.failed, found.todo) == (3, 2, 1, 0)
    assert (found.units_done, found.frames, found.rows, found.reasons) == (1, 800, 800, {"not_video": 1})


@pytest.mark.parametrize("table", ["scores", "faces"])
def test_outcomes_count_by_the_ledger_of_the_rows_that_their_job_makes(lake: Lake, table: str) -> None:
    data = Partition(table, ((("model", "m-1"), ("ingest", "i-1"))[table == "faces"], ("archive", "clips")))
    for unit, recorded in (("u1", True), ("u2", False)):
        for partition in (data, data.videos):
            rows = sample_rows(partition.table, 3)
            put_part(lake, partition.table, unit, rows, recorded=recorded, keys=dict(partition.keys))
    for partition in (data, data.videos):
        assert [part.key for part in committed(lake, partition.table)] == [lake.part_key(partition, "u1")]


def test_all_parts_of_labels_are_committed_and_other_files_are_not(lake: Lake) -> None:
    key = put_part(lake, "labels", "labels", sample_rows("labels", 3))
    lake.store.create(f"{key}.tmp", b"x")
    lake.store.create("scores/schema=1/model=m-1/archive=clips/README.txt", b"x")
    assert [part.key for part in committed(lake, "labels")] == [key]
    assert committed(lake, "scores") == []
