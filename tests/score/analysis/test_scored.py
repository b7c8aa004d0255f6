"""Which video is meant: the one that the given name, model and archive leave, and a sentence if there is not one."""

from __future__ import annotations

from pathlib import Path

import pytest
from scored_lakes import MODEL, batch, put_scores

from common.errors import UsageError
from common.lake.format import claim
from common.lake.layout import Lake
from score.analysis.scored import Scored, find
from score.analysis.sql import connect

FACES = batch({0: [0, 1]}, 2)


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))


def put(lake: Lake, uri: str, **given: str) -> None:
    put_scores(lake, uri, FACES, {"valence": [0, 1]}, **given)


def found(lake: Lake, name: str, model: str | None = None, archive: str | None = None) -> Scored:
    with connect(lake) as tables:
        return find(tables, name, model, archive)


def problem(lake: Lake, name: str, model: str | None = None, archive: str | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        found(lake, name, model, archive)
    return str(refused.value)


def test_a_video_is_known_by_its_name_its_uri_or_its_path(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "it's 100%.mp4")
    put(lake, uri)
    put(lake, str(tmp_path / "b.mp4"))
    monkeypatch.chdir(tmp_path.parent)
    for name in ("it's 100%.mp4", uri, f"{tmp_path.name}/it's 100%.mp4"):
        video = found(lake, name)
        assert (video.uri, video.name, video.model, video.archive) == (uri, "it's 100%.mp4", MODEL, "main")


def test_an_unknown_name_is_answered_with_the_nearest(lake: Lake) -> None:
    for name in ("holiday_01.mp4", "holiday_02.mp4", "zoo.mp4", "interview.mov"):
        put(lake, f"/v/{name}")
    assert problem(lake, "Holiday_03.mp4") == (
        "no scored video of this lake is named Holiday_03.mp4: did you mean holiday_01.mp4 or holiday_02.mp4"
        " or interview.mov?"
    )


def test_a_lake_without_scores_says_what_to_do(tmp_path: Path) -> None:
    claim(Lake(str(tmp_path)))
    assert "run mien score first" in problem(Lake(str(tmp_path)), "a.mp4")


def test_of_several_models_one_is_chosen_by_its_name_or_how_it_begins(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for model in ("plain-1a-2b", "plain-1a-box50-3c", "other-4d-5e"):
        put(lake, "/v/a.mp4", model=model)
    assert problem(lake, "a.mp4") == (
        "a.mp4 was scored by several models: choose one with --model, other-4d-5e, plain-1a-2b, plain-1a-box50-3c"
    )
    assert "choose one with --model, plain-1a-2b, plain-1a-box50-3c" in problem(lake, "a.mp4", "plain")
    assert found(lake, "a.mp4", "other").model == "other-4d-5e"
    assert found(lake, "a.mp4", "plain-1a-2b").model == "plain-1a-2b"
    assert "no model third scored a.mp4: choose one with --model, other-4d-5e," in problem(lake, "a.mp4", "third")


def test_a_name_that_is_the_beginning_of_another_is_exact(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for model in ("m-1", "m-12"):
        put(lake, "/v/a.mp4", model=model)
    assert found(lake, "a.mp4", "m-1").model == "m-1"


def test_of_several_archives_one_is_chosen(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for archive in ("main", "old"):
        put(lake, "/v/a.mp4", archive=archive)
    assert problem(lake, "a.mp4") == "a.mp4 is in several archives: choose one with --archive, main, old"
    assert found(lake, "a.mp4", archive="old").archive == "old"
    assert "a.mp4 is not in archive new: choose one with --archive, main, old" in problem(lake, "a.mp4", archive="new")


def test_of_several_videos_of_one_name_one_is_chosen_by_its_uri(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for folder in ("x", "y"):
        put(lake, f"/{folder}/a.mp4")
    assert problem(lake, "a.mp4") == "a.mp4 names several videos: choose one with --video, /x/a.mp4, /y/a.mp4"
    assert found(lake, "/y/a.mp4").uri == "/y/a.mp4"


def test_many_choices_are_not_all_named(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for number in range(10):
        put(lake, "/v/a.mp4", model=f"m-{number}")
    assert problem(lake, "a.mp4").endswith("m-0, m-1, m-2, m-3, m-4, m-5, m-6, m-7 or one of 2 more")


def test_a_video_that_failed_says_why(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    put(lake, "/v/a.mp4", status="failed", reason="encrypted", message="the file is encrypted")
    assert "a.mp4 could not be scored (encrypted: the file is encrypted)" in problem(lake, "a.mp4")
