"""Alignment: the least-squares similarity, exact to the pixel, unmirrored, without aliasing, whatever the points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import data
from skimage.transform import SimilarityTransform

from common.crops import TEMPLATES, Crop
from ingest.align import Aligner, degenerate, similarity

TEMPLATE = TEMPLATES["arcface"]


def placed(scale: float, turn: float, middle: tuple[float, float]) -> np.ndarray:
    """The template's five points in a picture: float [5, 2]."""
    return SimilarityTransform(scale=scale, rotation=turn)(TEMPLATE - TEMPLATE.mean(0)) + middle


@pytest.mark.parametrize(("size", "margin"), [(112, 0.0), (224, 0.0), (224, 0.25), (256, -0.125)])
def test_a_crop_of_any_size_and_margin_is_placed_as_least_squares_place_it(size: int, margin: float) -> None:
    """Against a linear system in a, b, tx, ty, solved without complex numbers: the points differ by 1e-3 px at most."""
    rng = np.random.default_rng(size)
    scaled = (TEMPLATE + 112 * margin) * size / (112 * (1 + 2 * margin))
    for _ in range(50):
        points = placed(rng.uniform(0.2, 9), rng.uniform(-3, 3), (300, 200)) + rng.normal(0, 4, (5, 2))
        if degenerate(points[None], scaled)[0]:
            continue
        x, y = points.T
        one, none = np.ones(5), np.zeros(5)
        system = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
        a, b, tx, ty = np.linalg.lstsq(system, scaled.T.ravel())[0]
        expected = np.stack([a * x - b * y + tx, b * x + a * y + ty], 1)
        matrix = similarity(points[None], Aligner(Crop(size=size, margin=margin)).template)[0]
        np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], expected, atol=1e-3)


@given(arrays(np.float64, (4, 5, 2), elements=st.floats(-30, 30)), st.floats(0.2, 9), st.floats(-3, 3))
def test_it_is_the_similarity_that_scikit_image_estimates(noise: np.ndarray, scale: float, turn: float) -> None:
    points = placed(scale, turn, (300, 200)) + noise * scale / 4
    expected = [SimilarityTransform.from_estimate(each, TEMPLATE).params[:2] for each in points]
    fit = ~degenerate(points, TEMPLATE)
    assert fit.any()
    np.testing.assert_allclose(similarity(points, TEMPLATE)[fit], np.array(expected)[fit], atol=1e-6)


@pytest.mark.parametrize("margin", [0.25, 0.5, -0.125])
def test_a_margin_shows_so_much_more_around_the_same_face(margin: float) -> None:
    picture = cv2.GaussianBlur(data.astronaut(), (0, 0), 3)
    points = placed(1.0, 0.2, (230, 120))[None]
    rim = round(112 * margin)
    wide = Aligner(Crop(size=112 + 2 * rim, margin=margin))(picture, points)[0]
    plain = Aligner(Crop())(picture, points)[0]
    if rim > 0:
        wide = wide[rim:-rim, rim:-rim]
    else:
        plain = plain[-rim:rim, -rim:rim]
    np.testing.assert_allclose(wide.astype(float), plain, atol=1)


@pytest.mark.parametrize("size", [112, 160])
@pytest.mark.parametrize("scale", [0.4, 0.9, 1.7, 2.6, 4.3])
@pytest.mark.parametrize("turn", [0.0, 0.5, -1.4])
def test_points_of_the_picture_come_to_lie_on_the_template(size: int, scale: float, turn: float) -> None:
    points = placed(scale, turn, (330.3, 290.7))
    y, x = np.mgrid[:600, :640]
    radius = 3 * scale
    crops = []
    for px, py in points:  # one soft spot at a time
        spot = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2))
        crops.append(Aligner(Crop(size=size))(np.repeat(spot[..., None], 3, 2).astype(np.uint8), points[None])[0])
    for crop, target in zip(crops, TEMPLATE * size / 112, strict=True):
        weight = crop[..., 0].astype(float)
        cy, cx = np.mgrid[:size, :size]
        found = (weight * cx).sum() / weight.sum(), (weight * cy).sum() / weight.sum()
        np.testing.assert_allclose(found, target, atol=0.25)


def test_a_shrunk_face_lies_where_an_unshrunk_one_does() -> None:
    y, x = np.mgrid[:1000, :1100]
    ramp = np.stack([x / 1100 * 255, y / 1000 * 255, np.full_like(x, 77)], -1)
    for scale in (1.9, 2.1, 3.7, 5.2):
        points = placed(scale, 0.3, (560, 500))
        crop = Aligner(Crop())(ramp.round().astype(np.uint8), points[None])[0]
        matrix = similarity(points[None], TEMPLATE)[0]
        cy, cx = np.mgrid[:112, :112]
        source = (np.stack([cx, cy], -1) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        inside = ((source > 12) & (source < np.array([1087, 987]))).all(-1)
        expected = np.stack([source[..., 0] / 1100 * 255, source[..., 1] / 1000 * 255, np.full_like(cx, 77)], -1)
        assert inside.mean() > 0.8
        assert np.abs(crop - expected)[inside].max() < 1.5


@pytest.mark.parametrize("scale", [1.2, 1.6, 2.0, 2.5, 4.0])
def test_fine_detail_of_a_larger_face_is_averaged_not_aliased(scale: float) -> None:
    """Of a chessboard of pixels nothing is left; of noise, about what is when one pixel averages scale^2 of them."""
    board = np.indices((900, 900)).sum(0) % 2 * 255
    noise = np.random.default_rng(0).integers(0, 256, (900, 900))
    points = placed(scale, 0.2, (450, 450))[None]
    crops = [Aligner(Crop())(np.repeat(each[..., None], 3, 2).astype(np.uint8), points)[0] for each in (board, noise)]
    flat, rough = (crop[10:-10, 10:-10].astype(float) for crop in crops)
    assert np.abs(flat - 127.5).max() < 30
    assert 0.6 < rough.std() / (noise.std() / scale) < 1


def test_it_is_upright_unmirrored_and_rgb() -> None:
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[:, :200, 0] = 255  # red at the image's left
    picture[:, 200:, 2] = 255  # blue at its right
    picture[:200, :, 1] = 128  # green above
    crop = Aligner(Crop())(picture, placed(1.5, 0.0, (200, 200))[None])[0]
    assert crop[5, 5].tolist() == [255, 128, 0]
    assert crop[5, -6].tolist() == [0, 128, 255]
    assert crop[-6, 5].tolist() == [255, 0, 0]


def test_a_turned_head_comes_upright() -> None:
    picture = data.astronaut()
    points = np.array([[201.0, 107.0], [244.0, 107.0], [221.0, 132.0], [206.0, 152.0], [239.0, 152.0]])
    straight = Aligner(Crop())(picture, points[None])[0]
    quarter = np.ascontiguousarray(np.rot90(picture))  # (x, y) goes to (y, W - 1 - x)
    turned = np.stack([points[:, 1], picture.shape[1] - 1 - points[:, 0]], 1)
    again = Aligner(Crop())(quarter, turned[None])[0]
    assert np.abs(straight.astype(int) - again).mean() < 1


def test_beyond_the_frame_it_is_black() -> None:
    crop = Aligner(Crop())(np.full((100, 100, 3), 200, np.uint8), placed(1.0, 0.0, (0, 50))[None])[0]
    assert crop[56, 5].tolist() == [0, 0, 0]
    assert crop[56, 80].tolist() == [200, 200, 200]
    outside = Aligner(Crop())(np.full((100, 100, 3), 200, np.uint8), placed(5.0, 0.0, (-9000, 50))[None])[0]
    assert outside.max() == 0


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 50.0),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        TEMPLATE * [-1, 1] + [200, 50],  # mirrored: the person's eyes exchanged
        TEMPLATE * 0.01 + 40,
        np.where(np.arange(10).reshape(5, 2) == 3, np.nan, TEMPLATE),
    ],
)
def test_points_that_are_no_face_are_degenerate_and_still_give_a_crop(points: np.ndarray) -> None:
    aligner = Aligner(Crop())
    assert aligner.degenerate(points[None]).tolist() == [True]
    assert aligner(data.astronaut(), points[None]).shape == (1, 112, 112, 3)


def test_faces_seen_from_the_side_or_turned_are_not_degenerate() -> None:
    profile = TEMPLATE * [0.35, 1]
    upside_down = TEMPLATE @ np.diag([-1, -1]) + 150
    assert Aligner(Crop()).degenerate(np.stack([TEMPLATE, profile, upside_down])).tolist() == [False] * 3


@given(arrays(np.float32, (3, 5, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_any_points_give_crops(points: np.ndarray) -> None:
    picture = np.full((60, 80, 3), 9, np.uint8)
    crops = Aligner(Crop(size=32))(picture, points)
    assert crops.shape == (3, 32, 32, 3)
    assert crops.dtype == np.uint8


def test_no_faces_are_no_crops() -> None:
    assert Aligner(Crop(size=64))(data.astronaut(), np.zeros((0, 5, 2))).shape == (0, 64, 64, 3)
