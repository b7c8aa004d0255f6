"""Crops in files: pictures, and folders with a picture for each frame."""

from __future__ import annotations

import os

import pytest
from labelled import picture

from common.errors import UsageError
from ingest.datasets.crops import FileCrops


def reds(crops: FileCrops, uri: str) -> list[int | None]:
    return [None if frame is None else int(frame[0, 0, 0]) for frame in crops.frames(uri)]


@pytest.fixture
def folder(tmp_path):
    for number in (10, 2, 4):
        picture(tmp_path / "clip" / f"{number:05d}.png", (number * 20, 0, 0))
    return tmp_path / "clip"


def test_of_a_clip_all_frames_are_given_in_order(folder):
    assert reds(FileCrops(lambda video: folder), str(folder)) == [40, 80, 200]


def test_of_a_track_with_numbered_frames_the_absent_ones_are_given_as_none(folder):
    found = reds(FileCrops(lambda video: folder, numbered=True), str(folder))
    assert found == [None, 40, None, 80, None, None, None, None, None, 200]


@pytest.mark.parametrize("name", ["2.png", "face.png", "00000.png"])
def test_a_track_whose_pictures_do_not_name_their_frames_is_refused(folder, name):
    picture(folder / name)
    with pytest.raises(UsageError, match="is not named after one frame"):
        reds(FileCrops(lambda video: folder, numbered=True), str(folder))


def test_a_version_changes_with_any_picture(folder):
    crops = FileCrops(lambda video: folder)
    versions = [crops.version(str(folder))]
    os.utime(folder / "00004.png", ns=(1, 1))
    versions.append(crops.version(str(folder)))
    (folder / "00010.png").rename(folder / "00011.png")
    versions.append(crops.version(str(folder)))
    (folder / "00011.png").unlink()
    versions.append(crops.version(str(folder)))
    assert len(set(versions)) == 4
    assert crops.version(str(folder)) == versions[-1]


def test_what_is_listed_has_the_size_of_its_pictures(folder):
    listed = FileCrops(lambda video: folder).listed("clip")
    assert listed is not None
    assert (listed.uri, listed.size) == (str(folder), sum(path.stat().st_size for path in folder.iterdir()))
    assert FileCrops(lambda video: None).listed("clip") is None
