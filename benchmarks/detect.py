"""Face detection side by side: the packages' own loops and ours, on one thread.

    python -m benchmarks.detect [VIDEO] [--frames 16]

CPU milliseconds a frame, best of three. RetinaFace runs on random weights with its class heads at zero, so no face is
found and the time is the network's and the priors'; that of its found faces is small beside it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from torch import nn

from benchmarks.machine import DEMO_CLIP, existing, last_line
from common import environment
from ingest.decode.reader import DecodeOptions, open_video
from ingest.detect.detector import DetectorOptions
from ingest.detect.mtcnn import Mtcnn
from ingest.detect.retinaface import CAFFE, IMAGENET, Network, RetinaFaceDetector, mobilenet_network, resnet_network

Pictures = NDArray[np.uint8]
NETWORKS = {
    "retinaface_resnet50": (resnet_network, IMAGENET),
    "retinaface_mobilenet0.25": (mobilenet_network, CAFFE),
}


def frames_of(path: Path, count: int) -> Pictures:
    with open_video(path, DecodeOptions(batch_frames=count)) as reader:
        return next(iter(reader)).rgb.copy()


def cpu_ms(detect: Callable[[Pictures], object], frames: Pictures) -> float:
    detect(frames[:1])
    times = []
    for _ in range(3):
        began = time.process_time()
        detect(frames)
        times.append((time.process_time() - began) / len(frames) * 1e3)
    return min(times)


def one_by_one(detect: Callable[[Pictures], object]) -> Callable[[Pictures], object]:
    return lambda frames: [detect(frame) for frame in frames]


def in_batches(detect: Callable[[Pictures], object], size: int) -> Callable[[Pictures], object]:
    return lambda frames: [detect(frames[i : i + size]) for i in range(0, len(frames), size)]


def mtcnn_rows(frames: Pictures) -> dict[str, float]:
    rows = {}
    for min_face in (20, 32, 40):
        detect = partial(MTCNN(keep_all=True, min_face_size=min_face).detect, landmarks=True)
        ours = Mtcnn(min_face=min_face, threshold=0.7)
        rows[f"mtcnn {min_face} px, package, frame by frame"] = cpu_ms(one_by_one(detect), frames)
        rows[f"mtcnn {min_face} px, package, batch"] = cpu_ms(detect, frames)
        rows[f"mtcnn {min_face} px, ours"] = cpu_ms(ours, frames)
    return rows


def blind(network: Network) -> Network:
    """The network with class heads that see no face."""
    for head in network.ClassHead:
        nn.init.zeros_(head.conv1x1.weight)
        nn.init.zeros_(head.conv1x1.bias)
    return network


def retinaface_rows(name: str, frames: Pictures) -> dict[str, float]:
    environment.NO_ALBUMENTATIONS_UPDATE.set_default("1")
    from retinaface.predict_single import Model

    make, preparation = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = Model(max_size=max(frames.shape[1:3]))
    package.model = blind(make()).eval()
    rows = {
        f"{name}, package's loop": cpu_ms(one_by_one(package.predict_jsons), frames[:4]),
    }
    for dtype in ("float32", "bfloat16"):
        options = DetectorOptions(name=name, dtype=dtype)
        detector = RetinaFaceDetector(blind(make()), preparation, options)
        for size in (1, 8):
            rows[f"{name}, ours, {dtype}, batch {size}"] = cpu_ms(in_batches(detector, size), frames[:8])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=existing, nargs="?", default=DEMO_CLIP)
    parser.add_argument("--frames", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    frames = frames_of(arguments.video, arguments.frames)
    rows = mtcnn_rows(frames)
    for name in NETWORKS:
        rows |= retinaface_rows(name, frames)
    print(f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, CPU milliseconds a frame, one thread")
    for name, value in rows.items():
        print(f"{name:55}{value:10.1f}")
    ratios = {
        "mtcnn_32px_package_to_ours": rows["mtcnn 32 px, package, frame by frame"] / rows["mtcnn 32 px, ours"],
    } | {
        f"{name}_package_to_ours_{dtype}": rows[f"{name}, package's loop"] / rows[f"{name}, ours, {dtype}, batch 8"]
        for name in NETWORKS
        for dtype in ("float32", "bfloat16")
    }
    last_line("detect", ratios, {f"{name} (ms)": value for name, value in rows.items()})


if __name__ == "__main__":
    main()
