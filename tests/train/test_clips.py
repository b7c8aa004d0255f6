"""Clips as examples: how they are cut from tracks, which frames of them are shown, and how they change at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lakes import put_part
from scipy import ndimage

from common.bundle.manifest import Preprocess
from common.lake.layout import Lake
from train.data import clips
from train.data import faces as faces_
from train.data.augment import augment
from train.data.crops import CropReader
from train.data.faces import FaceSet
from train.data.sources import DataOptions
from train.stage_options import AugmentOptions, ClipCut

SEVEN = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
LENGTHS = [1, 8, 15, 16, 17, 31, 32, 33, 47, 100, 727, 847]


def published_test_frames(n: int) -> list[int]:
    """The frames that DFER-CLIP's code tests, counted from 0."""
    if n <= 16:
        return [*range(n), *[n - 1] * (16 - n)]
    return [int(n / 16 / 2 + n / 16 * i) for i in range(16)]


@pytest.mark.parametrize("frames", LENGTHS)
def test_evaluation_sees_the_frames_that_the_published_code_tests(frames: int) -> None:
    assert clips.centres(frames, 16).tolist() == published_test_frames(frames)


@pytest.mark.parametrize("frames", LENGTHS)
def test_training_draws_each_frame_of_a_clip_and_one_of_each_sixteenth(frames: int) -> None:
    rng = np.random.default_rng(0)
    found = np.array([clips.drawn(frames, 16, rng) for _ in range(60 * max(1, frames // 16))])
    if frames <= 16:
        assert (found == published_test_frames(frames)).all()
        return
    assert set(found.ravel().tolist()) == set(
        range(frames)
    )  # also the last frames % 16, which the published code misses
    segment = np.arange(16)
    assert (found >= np.floor(segment * frames / 16)).all()
    assert (found < np.floor((segment + 1) * frames / 16)).all()


def test_all_frames_of_a_clip_change_alike_and_clips_each_in_its_own_way() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (3, 24, 24), np.uint8)
    options = AugmentOptions(area=(0.3, 1), shift=2, flip=True, light=0.2, brightness=0.5, rotate=4)
    images = np.broadcast_to(picture, (4, 5, 3, 24, 24))
    found = augment(images, options, np.random.default_rng(2))
    assert found.shape == images.shape
    assert all((found[:, frame] == found[:, 0]).all() for frame in range(5))
    assert len({each.tobytes() for each in found[:, 0]}) == 4


def test_a_picture_is_turned_by_at_most_the_angle_with_nearest_pixels_and_black_corners() -> None:
    class Angle:
        def uniform(self, low: float, high: float, count: int) -> np.ndarray:
            assert (low, high) == (-4.0, 4.0)
            return np.full(count, 3.0)

    picture = np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8)
    found = augment(picture[None], AugmentOptions(rotate=4), Angle())[0]  # type: ignore[arg-type]
    expected = ndimage.rotate(picture, 3.0, axes=(1, 2), reshape=False, order=0)
    assert (found == expected).mean() > 0.97  # where a pixel lies half-way, either neighbour is the nearest
    assert (found[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()


def test_brightness_is_multiplied() -> None:
    grey = np.full((40, 1, 4, 4), 100, np.uint8)
    found = augment(grey, AugmentOptions(brightness=0.5), np.random.default_rng(0))
    assert {len(np.unique(each)) for each in found} == {1}
    assert 50 <= found.min() < 60
    assert 140 < found.max() <= 150


# --- cutting


@pytest.fixture
def read(
    tmp_path: Path, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> Callable[..., tuple[FaceSet, Callable[..., clips.Clips]]]:
    """Writes a lake of one video and reads it. tracks: by track, its frames. labels: by frame, or one for the clip."""
    crop = crop_jpeg(np.full((8, 8, 3), 9, np.uint8))

    def of(tracks: dict[int, range], labels: list[str | None] | str) -> tuple[FaceSet, Callable[..., clips.Clips]]:
        lake = Lake(str(tmp_path))
        rows: list[dict[str, Any]] = [
            {"frame_index": frame, "track_id": track, "crop": crop}
            for track, frames in tracks.items()
            for frame in frames
        ]
        rows.sort(key=lambda row: row["frame_index"])
        put_part(lake, "faces", "u", make_faces("v", rows), n=0, keys={"ingest": "i", "archive": "a"})
        of_clip = isinstance(labels, str)
        columns = {"expression": [labels] if of_clip else labels} | ({"frame_index": [None]} if of_clip else {})
        table = make_labels("v", 1 if of_clip else len(labels), "train", **columns)
        put_part(lake, "labels", "v", table, keys={"dataset": "d"})
        faces = faces_.read(CropReader(lake, Preprocess(crop=(0, 0, 8), size=8), 8), DataOptions())
        return faces, lambda classes=SEVEN, **options: clips.cut(faces, classes, ClipCut(**options))

    return of


def spans(found: clips.Clips) -> list[tuple[int, int, int]]:
    return list(zip(found.first.tolist(), found.frames.tolist(), found.labels.tolist(), strict=True))


def test_a_labelled_clip_is_the_longest_track_of_its_video_however_long(read: Callable) -> None:
    faces, cut = read({3: range(10), 5: range(300), 8: range(200, 260)}, "fear")
    assert spans(cut(longest=1.0)) == [(10, 300, 3)]
    assert (faces.expression >= 0).sum() == faces.of_clip.sum() == 300


def test_a_class_that_no_head_of_frames_has_makes_clips_where_it_is_wanted(read: Callable) -> None:
    faces, cut = read({0: range(20)}, "anxiety")
    assert not len(cut())
    assert spans(cut(("anxiety", "fear"))) == [(0, 20, 0)]
    assert not faces.annotated("expr").any()


def test_labelled_frames_are_cut_where_the_label_changes_or_is_missing(read: Callable) -> None:
    labels = ["anger"] * 20 + ["fear"] * 30 + [None] * 5 + ["fear"] * 20 + ["other"] * 30 + ["sadness"] * 2
    _, cut = read({0: range(107)}, labels)
    assert spans(cut()) == [(0, 20, 1), (20, 30, 3), (55, 20, 3)]
    assert spans(cut(shortest=0.7)) == [(20, 30, 3)]
    assert spans(cut(shortest=0))[-1] == (105, 2, 5)


def test_a_long_stretch_makes_parts_of_equal_length(read: Callable) -> None:
    faces, cut = read({0: range(100)}, ["happiness"] * 100)
    found = cut(longest=1.2)  # 3.3 s
    assert spans(found) == [(0, 34, 4), (34, 33, 4), (67, 33, 4)]
    assert clips.seconds(faces, found) == pytest.approx(1.1)


def test_the_frames_of_a_clip_are_rows_of_the_face_set(read: Callable) -> None:
    _, cut = read({0: range(40)}, ["anger"] * 20 + ["fear"] * 20)
    found = cut()
    assert found.centres(16).tolist() == [[row + each for each in published_test_frames(20)] for row in (0, 20)]
    drawn = found.drawn(np.array([1, 0, 1]), 16, np.random.default_rng(0))
    assert ((drawn >= np.array([[20], [0], [20]])) & (drawn < np.array([[40], [20], [40]]))).all()
