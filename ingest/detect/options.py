"""The options of face detection, and how a detector is built from them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from common.config import Config
from ingest.detect.detector import Detector
from ingest.detect.registry import DETECTORS


def _registered(name: str) -> str:
    if name not in DETECTORS:
        raise ValueError(f"should be one of {', '.join(DETECTORS)}")
    return name


def _number_or_auto(value: Any) -> Any:
    text = str(value)
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return value
    raise ValueError("should be auto or a whole number from 1 on")


class DetectorOptions(Config):
    """Sizes are in pixels of the decoded frame, in which pixels are square."""

    name: Annotated[str, AfterValidator(_registered)] = Field("mtcnn", description=" or ".join(DETECTORS))
    weights: Path | None = Field(None, description="RetinaFace's weights; ResNet-50's are downloaded unless given")
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="refuse weights of another digest")
    min_face: float = Field(32.0, ge=12, description="smallest face: pixels of its box's longer side")
    max_faces: int | None = Field(None, ge=1, description="most faces of a frame: the largest are taken")
    every: Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)] = Field(
        1,
        description="search one frame in so many, and more of them where something happens; the faces between two are "
        "interpolated; auto: about six frames a second",
    )
    threshold: float = Field(0.7, gt=0, lt=1, description="lowest score of a face")
    max_side: int = Field(
        960,
        ge=64,
        description="larger frames are searched shrunk to this longer side; MTCNN then finds no face that is smaller "
        "than min_face pixels in the shrunk picture",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="RetinaFace: precision of the network")


def build(options: DetectorOptions) -> Detector:
    """The detector that the options name, with its weights loaded; UsageError if they are missing or do not fit."""
    detector: Detector = import_module(DETECTORS[options.name].module).load(options)
    return detector
