"""When a face's row says low_quality; how far a head is turned, and how sharp a crop is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from common.crops import Crop
from ingest.align import Aligner
from ingest.detect.detector import Faces
from ingest.quality import QualityOptions, sharpness, status, yaw

GOOD = {"box": (100.0, 100.0, 160.0, 180.0), "eyes": 26.0, "score": 0.99, "degenerate": False, "nose": 0.0}
# Eyes, tip of the nose and corners of the mouth of a head in mm: right in the picture, down, towards the camera.
HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 38, 38], [-25, 68, 12], [25, 68, 12]])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "ok"),
        ({"eyes": 11.9}, "low_quality"),
        ({"score": 0.89}, "low_quality"),
        ({"degenerate": True}, "low_quality"),
        ({"nose": 10.5}, "ok"),
        ({"nose": 11.5}, "low_quality"),  # the tip of the nose is as far to the side as in a profile
        ({"nose": -11.5}, "low_quality"),
        ({"box": (-29.0, 100.0, 31.0, 180.0)}, "ok"),
        ({"box": (-31.0, 100.0, 29.0, 180.0)}, "low_quality"),
        ({"box": (300.0, 100.0, 360.0, 180.0)}, "low_quality"),
        ({"box": (270.0, 195.0, 330.0, 275.0)}, "low_quality"),  # half of each side, a quarter of the box
    ],
)
def test_a_face_is_low_quality_if_any_bound_is_missed(change: dict, expected: str) -> None:
    face = GOOD | change
    landmarks = np.zeros((1, 5, 2), np.float32)
    landmarks[0, 1, 0] = face["eyes"]
    landmarks[0, 2, 0] = face["eyes"] / 2 + face["nose"]
    faces = Faces(np.array([face["box"]], np.float32), landmarks, np.array([face["score"]], np.float32))
    found = status(faces, np.array([face["degenerate"]]), (240, 300), QualityOptions())
    assert found.tolist() == [expected]


def test_no_faces_have_no_status() -> None:
    none = Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
    assert status(none, np.zeros(0, bool), (240, 300), QualityOptions()).tolist() == []


def seen(turn: float, tilt: float = 0.0, nod: float = 0.0) -> np.ndarray:
    """The five points of a head that is turned, tilted and nods by so many degrees, from far away: float [5, 2]."""
    a, b, c = np.radians([turn, tilt, nod])
    about_y = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    about_x = [[1, 0, 0], [0, np.cos(c), np.sin(c)], [0, -np.sin(c), np.cos(c)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    return (HEAD @ np.transpose(about_x) @ np.transpose(about_y) @ np.transpose(about_z))[:, :2] * 0.8 + 200


@pytest.mark.parametrize("tilt", [0, 25, -70])
@pytest.mark.parametrize("turn", [0, 15, 40, 65, 85, -30, -80])
def test_yaw_is_the_turn_of_the_head_whatever_its_tilt(turn: float, tilt: float) -> None:
    assert yaw(seen(turn, tilt)[None])[0] == pytest.approx(turn, abs=2)


@pytest.mark.parametrize("nod", [-20, 20])
def test_yaw_is_rough_where_the_head_nods_but_on_the_right_side(nod: float) -> None:
    for turn in (-50, 0, 50):
        assert yaw(seen(turn, nod=nod)[None])[0] == pytest.approx(turn, abs=15)


def test_points_in_one_place_have_some_yaw_and_nobody_has_none() -> None:
    assert yaw(np.zeros((1, 5, 2))).tolist() == [0]
    assert yaw(np.zeros((0, 5, 2))).tolist() == []


ASTRONAUT = np.array([[[201.0, 107.0], [244.0, 107.0], [221.0, 132.0], [206.0, 152.0], [239.0, 152.0]]])


def test_a_blurred_crop_and_an_enlarged_one_are_less_sharp_and_a_flat_one_not_at_all() -> None:
    def found(picture: np.ndarray, points: np.ndarray) -> float:
        return float(sharpness(Aligner(Crop())(picture, points))[0])

    picture = data.astronaut()
    blurred = [found(cv2.GaussianBlur(picture, (0, 0), sigma), ASTRONAUT) for sigma in (0.5, 1, 2, 4)]
    small = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
    assert blurred == sorted(blurred, reverse=True)
    assert found(small, (ASTRONAUT - 0.5) / 2) < found(picture, ASTRONAUT)
    assert found(np.full_like(picture, 90), ASTRONAUT) == 0


def test_sharpness_is_the_variance_of_the_laplacian_without_the_rim() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8)
    grey = crop.astype(float)
    laplacian = sum(np.roll(grey, *step) for step in ((1, 0), (-1, 0), (1, 1), (-1, 1))) - 4 * grey
    expected = laplacian[16:-16, 16:-16].var()
    assert sharpness(np.repeat(crop[None, ..., None], 3, 3))[0] == pytest.approx(expected, rel=1e-4)


def test_a_large_crop_is_as_sharp_as_a_small_one_of_the_same_face() -> None:
    sizes = [sharpness(Aligner(Crop(size=size))(data.astronaut(), ASTRONAUT))[0] for size in (112, 224)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)


def test_no_crops_have_no_sharpness() -> None:
    assert sharpness(np.zeros((0, 112, 112, 3), np.uint8)).tolist() == []
