"""How good a face is for a model: how far its head is turned, how sharp its crop is, and its `face_status`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from ingest.detect.detector import Faces

QUALITY_RESULTS = 2  # version of yaw, sharpness and status; docs/decisions.md says when to raise it
OK, LOW_QUALITY = "ok", "low_quality"

NOSE = 0.6  # how far the tip of the nose lies before the line of the eyes, in distances of the eyes
SIDE = 112  # pixels of the crop whose sharpness is measured: larger ones would look less sharp
RIM = 16  # of them on each side are left out: hair, background, and the black beyond the frame


class QualityOptions(Config):
    """A face is `low_quality` if it misses one of these limits, or if its landmarks do not have the shape of a face."""

    min_eye_distance: float = Field(12.0, ge=0, description="least distance between the eyes, in pixels")
    min_score: float = Field(0.9, ge=0, le=1, description="least score of the detector")
    min_inside: float = Field(0.5, ge=0, le=1, description="least share of the box that lies in the picture")
    max_yaw: float = Field(
        35.0,
        ge=0,
        le=90,
        description="farthest turn of the head to either side, in degrees as measured: profiles "
        "measure 30 to 55, as detectors draw the points of a face towards its front",
    )


def status(
    faces: Faces, degenerate: NDArray[np.bool_], picture: tuple[int, int], options: QualityOptions
) -> NDArray[np.str_]:
    """str [K], OK or LOW_QUALITY, of faces in a picture of (height, width) square pixels.

    Faces of both kinds are tracked, cropped and scored; the status tells a reader of the tables how far to trust a row.
    """
    eyes = np.linalg.norm(faces.landmarks[:, 1] - faces.landmarks[:, 0], axis=-1)
    edge = np.array(picture[::-1], np.float64)
    inside = np.clip(faces.boxes[:, 2:], 0, edge) - np.clip(faces.boxes[:, :2], 0, edge)
    share = inside.prod(1) / (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(1)
    good = (
        (eyes >= options.min_eye_distance)
        & (faces.scores >= options.min_score)
        & (share >= options.min_inside)
        & (np.abs(yaw(faces.landmarks)) <= options.max_yaw)
        & ~degenerate
    )
    return np.where(good, OK, LOW_QUALITY)


def yaw(landmarks: NDArray) -> NDArray[np.float32]:
    """float32 [K], in degrees: roughly how far each head is turned; above 0, it looks to the right of the picture.

    landmarks: float [K, 5, 2]. Turned by an angle a, the eyes are as far apart as cos(a) says, and the tip of the nose,
    which lies before them, moves along their line as sin(a) says. Both are lengths along one line, so neither the size
    of the face nor its tilt in the picture matters.
    """
    points = np.asarray(landmarks, np.float64)
    eyes = points[:, 1] - points[:, 0]
    apart = np.linalg.norm(eyes, axis=-1)
    along = eyes / np.maximum(apart, 1e-9)[:, None]
    nose = ((points[:, 2] - points[:, :2].mean(1)) * along).sum(-1)
    return np.degrees(np.arctan2(nose / NOSE, apart)).astype(np.float32)


def sharpness(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [K]: variance of the Laplacian of the grey crops [K, S, S, 3], scaled to `SIDE` pixels, without a rim.

    Low values are blurred or small faces, enlarged to the crop.
    """
    found = np.empty(len(crops), np.float32)
    for number, crop in enumerate(crops):
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        if len(grey) != SIDE:
            grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        found[number] = cv2.Laplacian(grey, cv2.CV_32F)[RIM:-RIM, RIM:-RIM].var()
    return found
