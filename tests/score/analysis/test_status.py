"""`mien status`: what was planned, what became of it, and what is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from bundles import make_bundle
from lakes import account, listing, put_part, sample_rows

from common.commit.committer import Committer
from common.commit.plan import PlanLog
from common.commit.units import Video
from common.errors import UsageError
from common.lake.format import claim
from common.lake.layout import Lake, Partition
from common.lake.schema import VIDEOS
from score.analysis.status import as_text, status
from score.config import ScoreConfig
from score.job import destination
from train.models.linear import LinearOptions
from train.models.vit import VitOptions

SCORES = Partition("scores", (("model", "m-1a"), ("archive", "clips")))
START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def outcome(video: Video, number: int, state: str, reason: str | None) -> dict:
    return account(
        video,
        status=state,
        reason=reason,
        frames=0 if state == "failed" else 100 + number,
        run_id=f"run-{number}",
        finished_at=START + timedelta(minutes=number),
    )


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Five videos planned in units of two; two units are done."""
    url = str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url")
    lake = Lake(url)
    videos = [Video(f"/clips/{n}.mp4", "1-1", 10) for n in range(5)]
    claim(lake)
    plan = PlanLog(lake, SCORES)
    plan.extend([listing(videos)], unit_videos=2)
    states = iter([("ok", None), ("partial", "decode_error"), ("failed", "not_video"), ("failed", "not_video")])
    number = 0
    for unit in list(plan.units())[:2]:
        rows = []
        for video in unit.videos:
            rows.append(outcome(video, number, *next(states)))
            number += 1
        put_part(lake, "scores", unit.id, sample_rows("scores", 30))
        put_part(lake, "videos", unit.id, pa.Table.from_pylist(rows, schema=VIDEOS))
    put_part(lake, "labels", "u1", sample_rows("labels", 12))
    return lake


def test_counts_are_those_of_plan_ledger_and_tables(lake: Lake) -> None:
    found = status(lake)
    assert found.labels == {"synth": 12}
    (job,) = found.jobs
    assert (job.table, job.config, job.archive) == ("scores", "m-1a", "clips")
    assert (job.units_planned, job.units_done) == (3, 2)
    assert (job.planned, job.ok, job.partial, job.failed, job.todo) == (5, 1, 1, 2, 1)
    assert job.reasons == {"decode_error": 1, "not_video": 2}
    assert (job.frames, job.rows) == (100 + 101, 60)
    assert (job.last_run, job.finished_at) == ("run-3", START + timedelta(minutes=3))


def test_models_of_one_bundle_are_told_apart_by_their_options(tmp_path: Path) -> None:
    encoder = VitOptions(image=16, channels=3, patch=8, dim=8, depth=1, heads=1)
    bundle = make_bundle(tmp_path / "bundle", encoder, LinearOptions(), {"crop": [0, 0, 96], "size": 16}, 96)
    lake = Lake(str(tmp_path / "lake"))
    claim(lake)
    chosen = ({}, {"dtype": "bfloat16", "faces": {"decode": {"every": 2}}})
    for options in chosen:
        config = ScoreConfig.model_validate(options).fitted(bundle.manifest)
        committer = Committer(destination(lake, "clips", bundle, config, None))
        committer.record_config()
        committer.plan.extend([listing([Video("/a", "1", 1)])])
    found = status(lake)
    assert {job.options for job in found.jobs} == {"defaults", "dtype=bfloat16, faces.decode.every=2"}
    assert "  options  dtype=bfloat16, faces.decode.every=2" in list(as_text(found))


def test_text_says_what_is_left_and_why_videos_failed(lake: Lake) -> None:
    text = "\n".join(as_text(status(lake)))
    assert "2 of 3 done" in text
    assert "5 planned: 1 ok, 1 partial, 2 failed, 1 to do" in text
    assert "2 not_video" in text
    assert "run-3, until 2026-03-04 05:09:07 UTC" in text


def test_a_lake_in_which_nothing_is_committed_yet(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    claim(lake)
    PlanLog(lake, SCORES).extend([listing([Video("/a", "1", 1)])])
    (job,) = status(lake).jobs
    assert (job.planned, job.todo, job.rows, job.last_run) == (1, 1, 0, None)


def test_no_lake_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no lake"):
        status(Lake(str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()
