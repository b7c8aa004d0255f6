"""`mien score` on real clips and on files from decoders' own test suites."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from commands import mien, table

from common.labels import FURTHER_EXPRESSION_COLUMNS
from common.lake.schema import OUTCOMES, REASONS

pytestmark = [pytest.mark.slow, pytest.mark.soak]


@pytest.fixture(scope="module")
def scored(clips: Path, odd: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("real")
    sources = (odd, clips / "single_face.mp4", clips / "face_noface.mov", clips / "no_face.mp4")
    done = mien("score", *sources, "--lake", lake, "--model", bundle, "--archive", "real", "--json")
    assert done.status == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.summary["planned"] == done.summary["ok"] + done.summary["partial"] + done.summary["failed"]
    return lake


@pytest.fixture(scope="module")
def videos(scored: Path) -> pd.DataFrame:
    found = table(scored, "videos").to_pandas()
    return found.set_index(found["uri"].str.rsplit("/", n=1).str[-1])


def scores_of(lake: Path, name: str) -> pd.DataFrame:
    found = table(lake, "scores").to_pandas()
    return found[found["uri"].str.endswith(f"/{name}")].sort_values("frame_index")


def test_every_odd_file_has_an_outcome_and_a_reason_unless_it_is_ok(odd: Path, videos: pd.DataFrame) -> None:
    assert {path.name for path in odd.iterdir()} <= set(videos.index)
    assert set(videos["status"]) == set(OUTCOMES)
    with_reason = videos[videos["status"] != "ok"]
    assert set(with_reason["reason"]) <= set(REASONS)
    assert with_reason["message"].str.len().min() > 0
    assert videos[videos["status"] == "ok"]["reason"].isna().all()


@pytest.mark.parametrize("name", ["single_face.mp4", "face_noface.mov", "no_face.mp4"])
def test_rows_are_the_frames_and_times_of_a_full_decode(name: str, clips: Path, scored: Path) -> None:
    with av.open(str(clips / name)) as container:
        stream = container.streams.best("video")
        start = (container.start_time or 0) / av.time_base
        times = [float(frame.pts * frame.time_base) - start for frame in container.decode(stream)]
    found = scores_of(scored, name)
    assert found["frame_index"].tolist() == list(range(len(times)))
    np.testing.assert_allclose(found["time_s"], times, atol=1e-9)


def test_one_face_through_a_clip_is_one_track(scored: Path) -> None:
    found = scores_of(scored, "single_face.mp4")
    assert set(found["face_status"]) == {"ok"}
    assert set(found["track_id"]) == {0}


def test_frames_without_a_face_have_null_predictions(scored: Path) -> None:
    found = scores_of(scored, "face_noface.mov")
    assert found["face_status"].tolist() == ["ok"] * 72 + ["no_face"] * 97
    predictions = found.loc[:, "valence":"au26"].drop(columns=list(FURTHER_EXPRESSION_COLUMNS))
    assert predictions[:72].notna().all(axis=None)
    assert predictions[72:].isna().all(axis=None)


def test_classes_that_a_bundle_lacks_are_null(scored: Path) -> None:
    found = scores_of(scored, "single_face.mp4")
    assert found[list(FURTHER_EXPRESSION_COLUMNS)].isna().all(axis=None)
