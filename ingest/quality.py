"""Decides `face_status`: which faces are so poor that their scores cannot be trusted. No other module decides it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from ingest.detect.detector import Faces

QUALITY_RESULTS = 1  # version of the statuses; docs/decisions.md says when to raise it
OK, LOW_QUALITY = "ok", "low_quality"


class QualityOptions(Config):
    """A face is `low_quality` if it misses one of these limits, or if its landmarks do not have the shape of a face."""

    min_eye_distance: float = Field(12.0, ge=0, description="least distance between the eyes, in pixels")
    min_score: float = Field(0.9, ge=0, le=1, description="least score of the detector")
    min_inside: float = Field(0.5, ge=0, le=1, description="least share of the box that lies in the picture")


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
        & ~degenerate
    )
    return np.where(good, OK, LOW_QUALITY)
