"""The geometry of an aligned crop: where the face's five points lie, how much is shown around them, and its size."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from common.config import Config

TEMPLATE_SIDE = 112  # pixels of the crop that the points of `TEMPLATES` are given in
TEMPLATES = {
    "arcface": np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
}
"""Where the five points lie (Deng et al., "ArcFace", 2019, as its authors publish them)."""


def _known(template: str) -> str:
    if template not in TEMPLATES:
        raise ValueError(f"should be one of {', '.join(TEMPLATES)}")
    return template


class View(Config):
    """`margin` is what a crop shows beyond the template, on each side and as a share of its side; below 0, it shows
    less."""

    template: Annotated[str, AfterValidator(_known)] = Field("arcface", description="where the five points are laid")
    margin: float = Field(0.0, ge=-0.25, le=1, description="what is shown beyond the template, as a share of its side")


class Crop(View):
    """The aligned crops that a bundle takes and `mien ingest` keeps."""

    size: int = Field(TEMPLATE_SIDE, ge=8, le=1024, description="side of the crop, in pixels")
