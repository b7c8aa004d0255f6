"""The interface of a face detector, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Faces:
    """The faces of one frame, sorted by falling score. All values are finite, in pixels from the edge of the frame: the
    first pixel reaches from 0 to 1, and its centre is at 0.5.

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
    """Finds faces. The faces of a frame do not depend on the other frames of a batch."""

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Faces]:
        """rgb: uint8 [N, H, W, 3] -> the faces of each of the N frames."""


def shrunk(rgb: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """The frames [N, H, W, 3], averaged down if their longer side exceeds `max_side` pixels; never enlarged."""
    height, width = rgb.shape[1:3]
    scale = max_side / max(height, width)
    if scale >= 1 or not len(rgb):
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in rgb])


def largest(faces: Faces, most: int | None) -> Faces:
    """The `most` faces with the largest boxes; all of them if it is None."""
    if most is None or len(faces) <= most:
        return faces
    areas = (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(1)
    return faces[np.sort(np.argsort(-areas, kind="stable")[:most])]


def faces_of(boxes: NDArray, landmarks: NDArray, scores: NDArray, *, min_face: float) -> Faces:
    """The faces in a detector's raw arrays, without those that are not finite, empty or smaller than `min_face`."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    landmarks = np.asarray(landmarks, np.float32).reshape(-1, 5, 2)
    scores = np.asarray(scores, np.float32).reshape(-1)
    finite = np.isfinite(boxes).all(1) & np.isfinite(landmarks).all((1, 2)) & np.isfinite(scores)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = finite & (sides > 0).all(1) & (sides.max(1, initial=0.0) >= min_face)
    order = np.flatnonzero(keep)
    return Faces(boxes, landmarks, scores)[order[np.argsort(-scores[order], kind="stable")]]
