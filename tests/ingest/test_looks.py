"""What a face looks like: the same through motion and light, another for another person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from ingest.decode.reader import DecodeOptions, open_video
from ingest.detect.mtcnn import Mtcnn
from ingest.looks import looks

FACE = np.array([180.0, 60, 270, 180])
SAME = 0.6  # the tracker's limit


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(looks(one, FACE[None])[0] @ looks(other, FACE[None])[0])


def test_a_face_is_wholly_like_itself_whatever_the_brightness_and_contrast() -> None:
    picture = data.astronaut()
    assert likeness(picture, picture) == pytest.approx(1, abs=1e-5)
    assert likeness(picture, (picture * 0.5 + 60).astype(np.uint8)) > 0.9


def test_a_face_that_moved_a_little_in_its_box_is_like_itself_and_other_things_are_not() -> None:
    picture = data.astronaut()
    assert likeness(picture, np.roll(picture, (4, 6), (0, 1))) > 0.8
    assert likeness(picture, data.coffee()[:400, :512]) < SAME
    assert likeness(picture, picture[::-1]) < SAME


def test_two_blank_regions_are_alike_and_a_blank_one_is_unlike_a_face() -> None:
    white, grey = np.full((512, 512, 3), 255, np.uint8), np.full((512, 512, 3), 90, np.uint8)
    assert likeness(white, grey) == pytest.approx(1, abs=1e-5)
    assert likeness(white, data.astronaut()) < SAME


@given(st.tuples(*[st.floats(-400, 900)] * 2, *[st.floats(0.5, 600)] * 2))
def test_boxes_anywhere_give_vectors_of_length_one(box: tuple[float, float, float, float]) -> None:
    x, y, width, height = box
    found = looks(data.astronaut()[:200, :300], np.array([[x, y, x + width, y + height]]))
    assert np.linalg.norm(found[0]) == pytest.approx(1, abs=1e-4)


def test_no_boxes_have_no_looks() -> None:
    assert len(looks(data.astronaut(), np.zeros((0, 4)))) == 0


@pytest.mark.slow
def test_people_of_real_clips_are_like_themselves_half_a_second_later_and_less_like_one_another(clips: Path) -> None:
    detector = Mtcnn(min_face=40, threshold=0.7, max_side=960)
    seen = []
    for name in ("single_face.mp4", "WolfgangLanger_Pexels.mp4", "carphone_pristine.mp4", "awesome movie.mov"):
        with open_video(clips / name, DecodeOptions(every=12)) as reader:
            frames = next(iter(reader)).rgb[:2]
            found = [faces.boxes[:1] for faces in detector(frames)]
            seen.append([looks(rgb, boxes)[0] for rgb, boxes in zip(frames, found, strict=True)])
    for person, (before, after) in enumerate(seen):
        assert before @ after > SAME
        for other in seen[:person]:
            assert before @ other[0] < before @ after
