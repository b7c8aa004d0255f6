"""RetinaFace agrees with the package on ResNet-50, and with independently computed detections on MobileNet-0.25."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from ingest.detect.detector import Detector, Faces
from ingest.detect.options import DetectorOptions, build
from ingest.detect.retinaface import (
    IMAGENET,
    Network,
    RetinaFaceDetector,
    fold_batch_norm,
    mobilenet_network,
    resnet_network,
)


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def mobilenet(weights: Path, **options: object) -> Detector:
    path = weights / "retinaface_mobilenet0.25.pth"
    options = {"threshold": 0.5, "min_face": 12, "max_side": 2048} | options
    return build(DetectorOptions.model_validate({"name": "retinaface_mobilenet0.25", "weights": path} | options))


def test_mobilenet_agrees_with_the_reference(weights: Path, images: Path) -> None:
    reference = json.loads((weights / "retinaface_mobilenet0.25.reference.json").read_text())["images"]
    detector = mobilenet(weights)
    for name, expected in reference.items():
        faces = detector(read(images / name)[None])[0]
        known = sorted(expected["faces"], key=lambda face: -face["score"])
        assert len(faces) == len(known), name
        for i, face in enumerate(known):
            np.testing.assert_allclose(faces.boxes[i], face["bbox"], atol=0.05)
            np.testing.assert_allclose(faces.landmarks[i], face["landmarks"], atol=0.05)
            assert faces.scores[i] == pytest.approx(face["score"], abs=1e-3)


def frames_of(images: Path, side: int = 320) -> np.ndarray:
    """The photographs, each scaled and cut to one size."""
    frames = []
    for path in sorted(images.glob("*.jpg")):
        rgb = read(path)
        scale = side / min(rgb.shape[:2])
        frames.append(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side])
    return np.stack(frames)


def check_close(a: Faces, b: Faces, pixels: float, score: float) -> None:
    assert len(a) == len(b)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=pixels)
    np.testing.assert_allclose(a.landmarks, b.landmarks, atol=pixels)
    np.testing.assert_allclose(a.scores, b.scores, atol=score)


def test_found_faces_do_not_depend_on_the_batch(weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, frames = mobilenet(weights), frames_of(images)
    together = detector(frames)
    assert sum(map(len, together)) >= 4
    for frame, faces in zip(frames, together, strict=True):
        check_close(detector(frame[None])[0], faces, 1e-3, 1e-4)
    monkeypatch.setattr("ingest.detect.retinaface.PIXELS_PER_CALL", 2 * 320 * 320)  # runs of two frames
    for parts, faces in zip(detector(frames), together, strict=True):
        check_close(parts, faces, 1e-3, 1e-4)


def test_bfloat16_moves_a_face_by_less_than_a_fiftieth_of_its_size(weights: Path, images: Path) -> None:
    frames = frames_of(images)
    exact, rough = mobilenet(weights)(frames), mobilenet(weights, dtype="bfloat16", threshold=0.45)(frames)
    for a, b in zip(exact, rough, strict=True):
        for box, landmarks, score in zip(a.boxes, a.landmarks, a.scores, strict=True):
            nearest = np.abs(b.boxes - box).sum(1).argmin()
            size = (box[2:] - box[:2]).max()
            assert np.abs(b.boxes[nearest] - box).max() < size / 50
            assert np.abs(b.landmarks[nearest] - landmarks).max() < size / 50
            assert b.scores[nearest] == pytest.approx(score, abs=0.05)


def test_a_large_frame_is_shrunk_and_its_faces_come_in_its_own_pixels(weights: Path, images: Path) -> None:
    rgb = read(images / "multi_face.jpg")
    large = cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    faces = mobilenet(weights)(rgb[None])[0]
    shrunk = mobilenet(weights, max_side=max(rgb.shape))(large[None])[0]
    assert len(shrunk) == len(faces) == 5
    left_to_right = faces[np.argsort(faces.boxes[:, 0])]
    np.testing.assert_allclose(shrunk[np.argsort(shrunk.boxes[:, 0])].boxes, 2 * left_to_right.boxes, atol=6)


def test_faces_below_the_smallest_size_are_left_out(weights: Path, images: Path) -> None:
    rgb = read(images / "multi_face.jpg")
    sides = [max(box[2:] - box[:2]) for box in mobilenet(weights)(rgb[None])[0].boxes]
    assert len(mobilenet(weights, min_face=115)(rgb[None])[0]) == sum(side >= 115 for side in sides) == 3


def test_no_frames_are_no_faces_and_small_ones_do_no_harm(weights: Path) -> None:
    detector = mobilenet(weights)
    assert detector(np.zeros((0, 48, 64, 3), np.uint8)) == []
    for height, width in ((1, 1), (7, 50), (33, 31), (2, 4100)):
        assert [len(faces) for faces in detector(np.zeros((2, height, width, 3), np.uint8))] == [0, 0]


def random_resnet() -> Network:
    """Seeded random weights, scaled so that scores spread over (0, 1) as trained ones do, with used batch norms."""
    torch.manual_seed(7)
    network = resnet_network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    picture = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for heads, output, spread in zip(
            (network.BboxHead, network.ClassHead, network.LandmarkHead), network.eval()(picture), (1, 2, 1), strict=True
        ):
            for head in heads:
                head.conv1x1.weight.mul_(spread / output.std())
    return network


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(256, 320), (250, 203)])
def test_resnet_agrees_with_the_package_on_the_same_weights_and_picture(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    from retinaface.predict_single import Model

    rgb = np.ascontiguousarray(data.astronaut()[: shape[0], : shape[1]])
    network = random_resnet()
    package = Model(max_size=max(shape))
    package.load_state_dict(copy.deepcopy(network.state_dict()))
    package.eval()
    options = DetectorOptions(name="retinaface_resnet50", threshold=0.95, min_face=12)
    found = RetinaFaceDetector(network, IMAGENET, options)(rgb[None])[0]
    theirs = package.predict_jsons(rgb, confidence_threshold=0.95)
    boxes = np.array([face["bbox"] for face in theirs])
    large = (boxes[:, 2:] - boxes[:, :2]).max(1) >= 12
    assert large.sum() > 20
    assert len(found) == large.sum()
    expected = sorted((face for face, keep in zip(theirs, large, strict=True) if keep), key=lambda f: f["bbox"])
    order = sorted(range(len(found)), key=lambda i: found.boxes[i].round(2).tolist())
    for i, face in zip(order, expected, strict=True):
        np.testing.assert_allclose(found.boxes[i], face["bbox"], atol=0.05)
        np.testing.assert_allclose(found.landmarks[i], face["landmarks"], atol=0.05)
        assert found.scores[i] == pytest.approx(face["score"], abs=0.01)


@pytest.mark.parametrize("make", [mobilenet_network, resnet_network])
def test_folding_batch_norms_leaves_none_and_changes_no_output(make: object) -> None:
    network = random_resnet() if make is resnet_network else mobilenet_network().eval()
    pictures = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(pictures)
        folded = fold_batch_norm(copy.deepcopy(network))
        after = folded(pictures)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_package_is_asked_for_its_address_without_calling_home(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.detect.retinaface import _published

    assert _published().rsplit("-", 1)[1] == "f168fae3c.zip"
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
