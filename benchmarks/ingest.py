"""From videos to rows of faces: mien beside the loop that a user would write, and beside what bounds it.

    python -m benchmarks.ingest [--frames 60]

One thread each. A user's loop reads with decord, detects with the package's own function frame by frame, and aligns
with OpenCV. `mien` is decoding, detection, tracking, alignment and rows with JPEGs. `limit` is how fast mien would be
if it did nothing but decode, detect and encode JPEGs, one after the other. `every 5` lets the detector see every fifth
frame, and more where something happens. RetinaFace has random weights, and zeros in its class heads: it finds no face.
The error of landmarks is the mean distance of a face's points from those of a search of all frames, in distances of
the eyes, its median over all faces.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detect import blind
from benchmarks.support import clips
from benchmarks.support.harness import Result, parser, run, side_by_side
from common import environment
from common.commit.units import Video
from common.crops import TEMPLATES
from common.faces import FaceBatch, to_faces
from common.store.base import file_version
from ingest.decode.reader import DecodeOptions, open_video
from ingest.detect.detector import Detector
from ingest.detect.mtcnn import Mtcnn
from ingest.detect.options import DetectorOptions
from ingest.detect.retinaface import IMAGENET, RetinaFaceDetector, resnet_network
from ingest.faces import FaceFinder, FacesOptions

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
LONGEST = 640  # side at which RetinaFace searches
BATCH = 8
Find = Callable[[NDArray[np.uint8]], Iterator[NDArray[np.float32]]]


def users_loop(path: Path, find: Find) -> int:
    """What a user would write. Returns how many frames the video has. `find`: a frame -> landmarks of each face."""
    import decord  # only after the clip is made: it loads a zlib with which OpenCV cannot read a PNG

    video = decord.VideoReader(str(path), num_threads=1)
    template = TEMPLATES["arcface"].astype(np.float32)
    for number in range(len(video)):
        frame = video[number].asnumpy()
        for landmarks in find(frame):
            matrix, _ = cv2.estimateAffinePartial2D(landmarks, template, method=cv2.LMEDS)
            cv2.warpAffine(frame, matrix, (112, 112))
    return len(video)


def users_mtcnn() -> Find:
    from facenet_pytorch import MTCNN

    found = MTCNN(keep_all=True, min_face_size=32)

    def find(frame: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        _, _, landmarks = found.detect(frame, landmarks=True)
        yield from () if landmarks is None else landmarks.astype(np.float32)

    return find


def users_retinaface() -> Find:
    environment.NO_ALBUMENTATIONS_UPDATE.set_default("1")
    from retinaface.predict_single import Model

    package = Model(max_size=LONGEST)
    package.model = blind(resnet_network()).eval()

    def find(frame: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        for face in package.predict_jsons(frame):
            if face["landmarks"]:
                yield np.array(face["landmarks"], np.float32)

    return find


class Mien:
    """Rows of faces from videos, by one detector."""

    def __init__(self, detector: Detector, options: DetectorOptions) -> None:
        self.detector = detector
        self.finder = FaceFinder(FacesOptions(detector=DetectorOptions(every=options.every)))
        self.finder.detector = detector

    def batches(self, path: Path) -> list[FaceBatch]:
        with open_video(path, self.finder.options.decode) as reader:
            return list(self.finder.find(reader))

    def rows(self, path: Path) -> None:
        video = Video(str(path), file_version(path.stat()), path.stat().st_size)
        with open_video(path, self.finder.options.decode) as reader:
            for batch in self.finder.find(reader):
                to_faces(batch, video)


def decode(path: Path) -> None:
    with open_video(path, DecodeOptions()) as reader:
        for _ in reader:
            pass


def in_batches(detector: Detector, frames: NDArray[np.uint8]) -> None:
    for start in range(0, len(frames), BATCH):
        detector(frames[start : start + BATCH])


def landmark_errors(dense: list[FaceBatch], sparse: list[FaceBatch]) -> NDArray[np.float64]:
    """Of each face of `dense` that has its frame and track in `sparse`."""

    def points(batches: list[FaceBatch]) -> dict[tuple[int, int], NDArray[np.float32]]:
        return {
            (int(batch.frame_index[row]), int(track)): landmarks
            for batch in batches
            for row, track, landmarks in zip(batch.row, batch.track_id, batch.landmarks, strict=True)
        }

    every, found = points(dense), points(sparse)
    return np.array(
        [
            np.linalg.norm(every[face] - found[face], axis=1).mean() / np.linalg.norm(every[face][0] - every[face][1])
            for face in every.keys() & found.keys()
        ]
    )


def compared(path: Path, rounds: int, retinaface: bool) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Frames per second of each way, and the errors of landmarks."""
    every, fifth = DetectorOptions(), DetectorOptions(every=5)
    mtcnn = Mtcnn(min_face=every.min_face, threshold=every.threshold, max_side=every.max_side)
    dense, sparse = Mien(mtcnn, every), Mien(mtcnn, fifth)
    with open_video(path, DecodeOptions()) as reader:
        frames = np.concatenate([batch.rgb.copy() for batch in reader])
    found = dense.batches(path)
    video = Video(str(path), "v1", 1)
    find = users_mtcnn()
    ways: dict[str, Callable[[], object]] = {
        "mtcnn, a user's loop": lambda: users_loop(path, find),
        "mtcnn, mien": lambda: dense.rows(path),
        "mtcnn, mien, every 5": lambda: sparse.rows(path),
        "mtcnn alone": lambda: in_batches(mtcnn, frames),
        "decode alone": lambda: decode(path),
        "rows and JPEGs alone": lambda: [to_faces(batch, video) for batch in found],
    }
    if retinaface:
        chosen = DetectorOptions.model_validate(
            {"name": "retinaface_resnet50", "dtype": "bfloat16", "max_side": LONGEST}
        )
        network = RetinaFaceDetector(blind(resnet_network()), IMAGENET, chosen)
        theirs, ours = users_retinaface(), Mien(network, every)
        ways |= {
            "retinaface, a user's loop": lambda: users_loop(path, theirs),
            "retinaface, mien": lambda: ours.rows(path),
        }
    seconds = side_by_side(ways, rounds)
    return {name: len(frames) / took for name, took in seconds.items()}, landmark_errors(found, sparse.batches(path))


def ratios_of(speed: Mapping[str, float]) -> dict[str, float]:
    limit = 1 / sum(1 / speed[f"{part} alone"] for part in ("decode", "mtcnn", "rows and JPEGs"))
    found = {
        "mtcnn_vs_loop": speed["mtcnn, mien"] / speed["mtcnn, a user's loop"],
        "of_limit": speed["mtcnn, mien"] / limit,
        "every5_vs_dense": speed["mtcnn, mien, every 5"] / speed["mtcnn, mien"],
    }
    if "retinaface, mien" in speed:
        found["retinaface_vs_loop"] = speed["retinaface, mien"] / speed["retinaface, a user's loop"]
    return found


def measure(options: Namespace) -> Result:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = {"90p": (160, 90)} if options.quick else SIZES
    count = 10 if options.quick else options.frames
    columns: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for size, (width, height) in sizes.items():
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "clip.mp4"
            clips.write(path, clips.pictures(count, width, height), count / 30)
            speed, errors = compared(path, 1 if options.quick else 3, retinaface=not options.quick)
        columns[size] = speed
        ratios |= {f"{ratio}_{size}": value for ratio, value in ratios_of(speed).items()}
        if len(errors):
            ratios[f"every5_landmark_error_{size}"] = float(np.median(errors))
    ways = next(iter(columns.values()))
    rows: list[list[str | float | None]] = [[way, *(speed[way] for speed in columns.values())] for way in ways]
    figures = {f"{way}, {size} (frames/s)": value for size, speed in columns.items() for way, value in speed.items()}
    return Result(f"frames/s, one thread, videos of {count} frames", ["way", *sizes], rows, ratios, figures)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--frames", type=int, default=60)
    run("ingest", measure, made)
