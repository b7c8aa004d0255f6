"""Names that both the configuration and the command line know; alone here, as `mien --help` must load nothing else."""

from __future__ import annotations

from typing import Literal

DecoderName = Literal["pyav", "decord"]
DetectorName = Literal["mtcnn", "retinaface_resnet50", "retinaface_mobilenet0.25"]
