"""MTCNN finds what facenet-pytorch finds, in any batch, in any picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from ingest.detect.detector import Faces
from ingest.detect.mtcnn import Mtcnn, _area_means


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return data.astronaut()


def mtcnn(*, min_face: float, threshold: float = 0.7, max_side: int = 1024) -> Mtcnn:
    return Mtcnn(min_face=min_face, threshold=threshold, max_side=max_side)


def by_package(rgb: np.ndarray, min_face: float) -> Faces:
    network = MTCNN(keep_all=True, min_face_size=min_face, select_largest=False)
    boxes, scores, landmarks = network.detect(rgb, landmarks=True)
    if boxes is None:
        boxes, scores, landmarks = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
    boxes, landmarks, scores = (np.asarray(each, np.float32) for each in (boxes, landmarks, scores))
    faces = Faces(boxes, landmarks - np.float32(0.5), scores)  # which the package puts that much too far
    return faces[(boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= min_face]


def check_equal(ours: Faces, theirs: Faces, tolerance: float) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=tolerance)
    np.testing.assert_allclose(ours.landmarks, theirs.landmarks, atol=tolerance)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


@pytest.mark.parametrize("min_face", [20, 32, 55.5])
def test_it_finds_what_the_package_finds(astronaut: np.ndarray, min_face: float) -> None:
    found = mtcnn(min_face=min_face)(astronaut[None])[0]
    assert len(found) >= 1
    check_equal(found, by_package(astronaut, min_face), 1e-3)


def test_it_finds_what_the_package_finds_in_photographs(images: Path) -> None:
    counts = {}
    for path in sorted(images.glob("*.jpg")):
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        found = mtcnn(min_face=32)(rgb[None])[0]
        check_equal(found, by_package(rgb, 32), 1e-3)
        counts[path.name] = int((found.scores > 0.9).sum())
    assert counts == {"13.jpg": 3, "ivan.jpg": 1, "multi_face.jpg": 5, "no_face.jpg": 0, "single_face.jpg": 1}


def test_landmarks_of_mirrored_faces_are_mirrored(images: Path, astronaut: np.ndarray) -> None:
    """What is counted from the edge changes places with what is counted from the other edge: no offset is left."""
    detector, moved = mtcnn(min_face=32), []
    pictures = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(images.glob("*.jpg"))]
    for rgb in [*pictures, astronaut]:
        found, mirrored = (detector(each[None])[0] for each in (rgb, np.ascontiguousarray(rgb[:, ::-1])))
        back = rgb.shape[1] - mirrored.landmarks[:, [1, 0, 2, 4, 3], 0]
        for face in found[found.scores > 0.9].landmarks[:, :, 0]:
            nearest = np.abs(back - face).mean(1).argmin()
            moved.append((face - back[nearest]).mean())
    assert len(moved) == 11
    assert abs(np.mean(moved)) / 2 < 0.3  # 0.5 and more if points were counted from elsewhere


def test_faces_of_large_frames_are_found_in_a_shrunk_picture_and_told_in_pixels_of_the_frame(
    astronaut: np.ndarray,
) -> None:
    large = cv2.resize(astronaut, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(large, (512, 512), interpolation=cv2.INTER_AREA)
    in_large, in_small = mtcnn(min_face=32, max_side=512)(large[None])[0], mtcnn(min_face=32)(small[None])[0]
    assert len(in_large) == len(in_small) >= 1
    np.testing.assert_allclose(in_large.boxes, 3 * in_small.boxes, rtol=1e-5)
    np.testing.assert_allclose(in_large.landmarks, 3 * in_small.landmarks, rtol=1e-5)
    direct = mtcnn(min_face=96, max_side=4096)(large[None])[0]
    np.testing.assert_allclose(in_large.landmarks[0], direct.landmarks[0], atol=6)


def test_landmarks_are_in_order_from_the_image_left(astronaut: np.ndarray) -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = mtcnn(min_face=40, threshold=0.9)(astronaut[None])[
        0
    ].landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_found_faces_do_not_depend_on_the_batch(astronaut: np.ndarray) -> None:
    detector = mtcnn(min_face=40)
    frames = np.stack([astronaut, astronaut[:, ::-1], np.zeros_like(astronaut), np.roll(astronaut, 37, 0)])
    together = detector(frames)
    for frame, faces in zip(frames, together, strict=True):
        alone = detector(frame[None])[0]
        assert np.array_equal(alone.boxes, faces.boxes)
        assert np.array_equal(alone.landmarks, faces.landmarks)
        assert np.array_equal(alone.scores, faces.scores)


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_noise_of_any_size_gives_finite_faces_or_none(height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    (faces,) = mtcnn(min_face=20, threshold=0.1)(noise)
    assert np.isfinite(faces.boxes).all()
    assert np.isfinite(faces.landmarks).all()


def test_no_frames_are_no_faces() -> None:
    assert mtcnn(min_face=20)(np.zeros((0, 48, 64, 3), np.uint8)) == []


@given(st.data())
def test_area_means_are_adaptive_average_pooling(draw: st.DataObject) -> None:
    height, width = draw.draw(st.integers(1, 50)), draw.draw(st.integers(1, 50))
    picture = np.random.default_rng(height * 51 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wrap = np.int64(draw.draw(st.sampled_from([0, 2**31 - 1000])))
    sums = (cv2.integral(picture, sdepth=cv2.CV_32S).astype(np.int64) + wrap).astype(np.int32)  # as if it had wrapped
    regions = []
    for _ in range(draw.draw(st.integers(1, 4))):
        y0, x0 = draw.draw(st.integers(0, height - 1)), draw.draw(st.integers(0, width - 1))
        regions.append([y0, x0, draw.draw(st.integers(y0 + 1, height)), draw.draw(st.integers(x0 + 1, width))])
    size = draw.draw(st.integers(1, 60)), draw.draw(st.integers(1, 60))
    with np.errstate(over="ignore"):
        means = _area_means(sums, np.array(regions), size)
    for one, (y0, x0, y1, x1) in zip(means, regions, strict=True):
        part = torch.from_numpy(picture[y0:y1, x0:x1].copy()).permute(2, 0, 1)[None].float()
        expected = (torch.nn.functional.interpolate(part, size=size, mode="area")[0] - 127.5) * 0.0078125
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)
