"""Rows of the stream through the real commit protocol to SQL and status."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from common.commit.committer import Committer, Destination, Staging
from common.commit.units import LISTING, Video
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES
from score.analysis.sql import connect
from score.analysis.status import status
from score.sequences import Windowing
from score.stream import ScoreOptions, scores

MODEL = "demo-0123-4567"


@pytest.fixture(params=["local", "s3"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    lake = Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))
    return Destination(
        lake=lake,
        data=Partition("scores", (("model", MODEL), ("archive", "clips"))),
        videos=Partition("videos", (("job", f"score-{MODEL}"), ("archive", "clips"))),
        schema=SCORES,
        config={},
    )


def test_committed_rows_are_what_the_stream_gave(
    destination: Destination, arithmetic_model, make_faces, make_account
) -> None:
    listed = [Video(f"/clips/{name}.mp4", "1-1", 10) for name in "abc"]
    rows = [{"video_id": v.video_id, "uri": v.uri, "version": v.version, "size": v.size} for v in listed]
    committer, staging = Committer(destination), Staging(destination)
    committer.plan.extend([pa.RecordBatch.from_pylist(rows, schema=LISTING)])
    (unit,) = committer.pending()
    given = 0
    for video in unit.videos:
        if video.uri.endswith("c.mp4"):
            staging.fail(video, make_account(video, status="failed", reason="not_video", message="no"))
            continue
        with staging.writer(video, "a" * 32) as writer:
            for table in scores(
                make_faces({0: list(range(350))}, 400), arithmetic_model(), video, ScoreOptions(Windowing(fps=25))
            ):
                given += len(table)
                writer.write(table)
            writer.finish(make_account(video, status="ok", frames=400))

    with connect(destination.lake) as tables:
        assert list(tables.query("SELECT count(*) FROM scores")[1]) == [(0,)]
    committer.commit(unit)
    with connect(destination.lake) as tables:
        query = "SELECT count(*), count(DISTINCT (video_id, frame_index)), count(valence), any_value(model) FROM scores"
        assert list(tables.query(query)[1]) == [(given, 800, 700, MODEL)]
        assert list(tables.query("SELECT count(*), count(reason) FROM videos")[1]) == [(3, 1)]
    (found,) = status(destination.lake).jobs
    assert (found.planned, found.ok, found.failed, found.todo) == (3, 2, 1, 0)
    assert (found.units_done, found.frames, found.rows, found.reasons) == (1, 800, 800, {"not_video": 1})
