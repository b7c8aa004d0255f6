"""Face detection by the packages' own loops and by ours, on one thread.

    python -m benchmarks.detect [--video FILE] [--frames 16]

CPU milliseconds per frame. RetinaFace has random weights, and zeros in its class heads: it finds no face, so the time
is that of the network and the priors. Found faces would add little.
"""

from __future__ import annotations

import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from torch import nn

from benchmarks.support import clips
from benchmarks.support.harness import Result, parser, run, side_by_side
from common import environment
from ingest.decode.reader import DecodeOptions, open_video
from ingest.detect.mtcnn import Mtcnn
from ingest.detect.options import DetectorOptions
from ingest.detect.retinaface import CAFFE, IMAGENET, Network, RetinaFaceDetector, mobilenet_network, resnet_network

Pictures = NDArray[np.uint8]
Detect = Callable[[Pictures], object]
NETWORKS = {
    "retinaface_resnet50": (resnet_network, IMAGENET),
    "retinaface_mobilenet0.25": (mobilenet_network, CAFFE),
}
RETINAFACE_FRAMES = 8
PACKAGE_FRAMES = 4  # the package's own loop is slow


def frames_of(path: Path, count: int) -> Pictures:
    """The first frames, uint8 [N, H, W, 3]."""
    with open_video(path, DecodeOptions(batch_frames=count)) as reader:
        return next(iter(reader)).rgb.copy()


def cpu_ms(ways: dict[str, tuple[Detect, Pictures]], rounds: int) -> dict[str, float]:
    """CPU milliseconds per frame of each way of detecting; `ways`: name -> (way, the frames to run it on)."""
    for detect, frames in ways.values():
        detect(frames[:1])
    calls = {name: partial(detect, frames) for name, (detect, frames) in ways.items()}
    seconds = side_by_side(calls, rounds, time.process_time)
    return {name: seconds[name] / len(frames) * 1e3 for name, (_, frames) in ways.items()}


def one_by_one(detect: Detect) -> Detect:
    return lambda frames: [detect(frame) for frame in frames]


def in_batches(detect: Detect, size: int) -> Detect:
    return lambda frames: [detect(frames[i : i + size]) for i in range(0, len(frames), size)]


def mtcnn_ways(frames: Pictures, sizes: tuple[int, ...]) -> dict[str, tuple[Detect, Pictures]]:
    """The ways to run MTCNN, for each smallest face size in pixels."""
    ways: dict[str, tuple[Detect, Pictures]] = {}
    for min_face in sizes:
        detect = partial(MTCNN(keep_all=True, min_face_size=min_face).detect, landmarks=True)
        ways[f"mtcnn {min_face} px, package, frame by frame"] = (one_by_one(detect), frames)
        ways[f"mtcnn {min_face} px, package, batch"] = (detect, frames)
        ours = Mtcnn(min_face=min_face, threshold=0.7, max_side=max(frames.shape))
        ways[f"mtcnn {min_face} px, ours"] = (ours, frames)
    return ways


def blind(network: Network) -> Network:
    """Sets the class heads of the network to zero, so that it finds no face."""
    for head in network.ClassHead:
        nn.init.zeros_(head.conv1x1.weight)
        nn.init.zeros_(head.conv1x1.bias)
    return network


def retinaface_ways(name: str, frames: Pictures) -> dict[str, tuple[Detect, Pictures]]:
    environment.NO_ALBUMENTATIONS_UPDATE.set_default("1")
    from retinaface.predict_single import Model

    make, preparation = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = Model(max_size=max(frames.shape[1:3]))
    package.model = blind(make()).eval()
    ways: dict[str, tuple[Detect, Pictures]] = {
        f"{name}, package's loop": (one_by_one(package.predict_jsons), frames[:PACKAGE_FRAMES])
    }
    for dtype in ("float32", "bfloat16"):
        options = DetectorOptions.model_validate({"name": name, "dtype": dtype})
        detector = RetinaFaceDetector(blind(make()), preparation, options)
        for size in (1, RETINAFACE_FRAMES):
            ways[f"{name}, ours, {dtype}, batch {size}"] = (in_batches(detector, size), frames[:RETINAFACE_FRAMES])
    return ways


def measure(options: Namespace) -> Result:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.video is not None:
        frames = frames_of(options.video, options.frames)
    else:
        width, height = (160, 90) if options.quick else (640, 360)
        frames = np.stack(clips.pictures(2 if options.quick else options.frames, width, height))
    ways = mtcnn_ways(frames, (32,) if options.quick else (20, 32, 40))
    names = ["retinaface_mobilenet0.25"] if options.quick else list(NETWORKS)
    for name in names:
        ways |= retinaface_ways(name, frames)
    rows = cpu_ms(ways, 1 if options.quick else 3)
    ratios = {"mtcnn_32px_package_to_ours": rows["mtcnn 32 px, package, frame by frame"] / rows["mtcnn 32 px, ours"]}
    for name in names:
        for dtype in ("float32", "bfloat16"):
            ours = rows[f"{name}, ours, {dtype}, batch {RETINAFACE_FRAMES}"]
            ratios[f"{name}_package_to_ours_{dtype}"] = rows[f"{name}, package's loop"] / ours
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    title = f"CPU milliseconds a frame, one thread, {len(frames)} frames of {size}"
    figures = {f"{name} (ms)": value for name, value in rows.items()}
    return Result(title, ["detector", "ms"], list(rows.items()), ratios, figures)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--video", type=Path, help="detect in the first frames of this file [default: one made here]")
    options.add_argument("--frames", type=int, default=16)
    run("detect", measure, options)
