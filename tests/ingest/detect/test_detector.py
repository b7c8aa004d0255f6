"""What a detector gives, and how the options become one."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import MienError, UsageError
from ingest.detect import weights as detector_weights
from ingest.detect.detector import Faces, faces_of, largest
from ingest.detect.options import DetectorOptions, build
from ingest.detect.retinaface import mobilenet_network

wild = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.integers(0, 12).flatmap(lambda k: arrays(np.float32, (k, 15), elements=wild)))
def test_faces_are_finite_not_empty_large_enough_and_the_most_certain_first(raw: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        faces = faces_of(raw[:, :4], raw[:, 4:14], raw[:, 14], min_face=20)
    expected = 0
    for x0, y0, x1, y1, *rest in raw.tolist():
        finite = np.isfinite([x0, y0, x1, y1, *rest]).all()
        with np.errstate(all="ignore"):
            sides = np.float32(x1) - np.float32(x0), np.float32(y1) - np.float32(y0)
        expected += bool(finite and min(sides) > 0 and max(sides) >= 20)
    assert len(faces) == expected
    assert faces.boxes.shape == (expected, 4)
    assert faces.landmarks.shape == (expected, 5, 2)
    assert (np.diff(faces.scores) <= 0).all()
    assert all(each.dtype == np.float32 for each in (faces.boxes, faces.landmarks, faces.scores))


def save(path: Path, tensors: object) -> str:
    torch.save(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    path = tmp_path / "random.pth"
    save(path, {f"module.{name}": value for name, value in mobilenet_network().state_dict().items()})
    return path


def test_weights_are_taken_from_a_file_and_their_digest_is_checked(random_weights: Path) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    options = DetectorOptions(name="retinaface_mobilenet0.25", weights=random_weights, weights_sha256=digest)
    assert callable(build(options))
    with pytest.raises(UsageError, match=digest):
        build(options.model_copy(update={"weights_sha256": "0" * 64}))


def test_mobilenet_without_weights_says_which_option_names_them() -> None:
    with pytest.raises(UsageError, match="`weights`"):
        build(DetectorOptions(name="retinaface_mobilenet0.25"))


def test_missing_weights_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.pth: No such file"):
        build(DetectorOptions(name="retinaface_mobilenet0.25", weights=tmp_path / "none.pth"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "w.pth", {"body.weight": torch.zeros(3)})
    with pytest.raises(UsageError, match="do not fit"):
        build(DetectorOptions(name="retinaface_mobilenet0.25", weights=tmp_path / "w.pth"))


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle", "zip"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, how: str) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "w.pth"
    if how == "torch":
        torch.save({"a": Trap(sprung)}, path)
    else:
        data = pickle.dumps({"a": Trap(sprung)})
        path.write_bytes(data if how == "pickle" else zipped(data))
    with pytest.raises(UsageError, match="safely"):
        detector_weights.read(path, None)
    assert not sprung.exists()


@pytest.mark.parametrize("data", [b"", b"not weights", b"PK\x03\x04" + bytes(50)])
def test_a_broken_file_of_weights_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UsageError, match="no weights"):
        detector_weights.read(tmp_path / "w.pth", None)


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net.pth", data)
    return out.getvalue()


def test_weights_are_downloaded_once_and_their_digest_is_in_their_name(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = server
    tensors = io.BytesIO()
    torch.save({"a": torch.arange(3)}, tensors)
    data = zipped(tensors.getvalue())
    name = f"net_2020-07-20-{hashlib.sha256(data).hexdigest()[:9]}.zip"
    (folder / name).write_bytes(data)
    cache = tmp_path / "cache"
    path, digest = detector_weights.download(f"{url}/{name}", cache)
    assert detector_weights.read(path, digest)["a"].tolist() == [0, 1, 2]
    (folder / name).unlink()
    assert detector_weights.download(f"{url}/{name}", cache) == (path, digest)
    path.write_bytes(data + b"x")
    with pytest.raises(UsageError, match="SHA-256"):
        detector_weights.read(path, digest)


def test_a_download_of_another_digest_is_refused_and_not_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "net-0123456789.zip").write_bytes(b"something else")
    with pytest.raises(MienError, match="SHA-256"):
        detector_weights.download(f"{url}/net-0123456789.zip", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_download_without_a_digest_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digest"):
        detector_weights.download("http://127.0.0.1:1/net.zip", tmp_path)


def test_a_download_that_fails_says_what_to_do(server: tuple[str, Path], tmp_path: Path) -> None:
    for url in (f"{server[0]}/net-0123456789.zip", "http://127.0.0.1:1/net-0123456789.zip"):
        with pytest.raises(MienError, match="option `weights`"):
            detector_weights.download(url, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_largest_faces_are_taken_in_the_order_of_their_scores() -> None:
    sides = np.array([20, 50, 30, 40], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    found = Faces(boxes, np.zeros((4, 5, 2), np.float32), np.array([0.99, 0.98, 0.97, 0.96], np.float32))
    assert largest(found, 2).boxes[:, 2].tolist() == [50, 40]
    assert largest(found, 3).boxes[:, 2].tolist() == [50, 30, 40]
    assert largest(found, 9) is largest(found, None) is found
