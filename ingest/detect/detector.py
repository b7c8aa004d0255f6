"""Face detectors: one protocol, two families behind it, chosen by `DetectorOptions`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from ingest.names import DetectorName


@dataclass(frozen=True)
class Faces:
    """The faces of one frame, the most certain first; all values finite, in pixels from the edge of the frame that they
    were found in.

    boxes: float32 [K, 4] as x0, y0, x1, y1 with x1 > x0 and y1 > y0, possibly beyond the frame's edge.
    landmarks: float32 [K, 5, 2]: image-left eye, image-right eye, nose, image-left and image-right mouth corner.
    scores: float32 [K] in [0, 1].
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: NDArray) -> Faces:
        """The faces that a mask or an index array selects."""
        return Faces(self.boxes[keep], self.landmarks[keep], self.scores[keep])


class Detector(Protocol):
    """Finds faces; what it finds in a frame does not depend on the frames beside it."""

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Faces]:
        """rgb: uint8 [N, H, W, 3] -> the faces of each of the N frames."""


class DetectorOptions(Config):
    """Which detector, and what it counts as a face."""

    name: DetectorName = "mtcnn"
    weights: Path | None = Field(None, description="RetinaFace's weights; ResNet-50's are downloaded unless given")
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="refuse weights of another digest")
    min_face: float = Field(32.0, ge=12, description="smallest face: pixels of its box's longer side")
    threshold: float = Field(0.7, gt=0, lt=1, description="lowest score of a face")
    max_side: int = Field(960, ge=64, description="RetinaFace: larger frames are shrunk to this longer side")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="RetinaFace: precision of the network")


def build(options: DetectorOptions) -> Detector:
    """The detector that the options name, with its weights loaded; UsageError if they are missing or do not fit."""
    if options.name == "mtcnn":
        from ingest.detect.mtcnn import Mtcnn

        return Mtcnn(min_face=options.min_face, threshold=options.threshold)
    from ingest.detect.retinaface import load

    return load(options)


def faces_of(boxes: NDArray, landmarks: NDArray, scores: NDArray, *, min_face: float) -> Faces:
    """Faces out of a detector's raw arrays: without those that are not finite, empty or smaller than `min_face`."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    landmarks = np.asarray(landmarks, np.float32).reshape(-1, 5, 2)
    scores = np.asarray(scores, np.float32).reshape(-1)
    finite = np.isfinite(boxes).all(1) & np.isfinite(landmarks).all((1, 2)) & np.isfinite(scores)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = finite & (sides > 0).all(1) & (sides.max(1, initial=0.0) >= min_face)
    order = np.flatnonzero(keep)
    return Faces(boxes, landmarks, scores)[order[np.argsort(-scores[order], kind="stable")]]
