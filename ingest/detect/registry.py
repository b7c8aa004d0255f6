"""The face detectors, found by name. A new one is a module with a function `load` and a line here.

This module imports no detector: the command line asks it for their names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registered:
    """A detector that users can name.

    `module`: its `load` takes `ingest.detect.options.DetectorOptions` and gives an `ingest.detect.detector.Detector`.
    `results`: the version of what it finds; docs/decisions.md says when to raise it. `has_weights`: the weights are
    installed with mien; otherwise the detector is loaded once before a job begins, to find missing weights early.
    """

    module: str
    results: int
    has_weights: bool = True


DETECTORS = {
    "mtcnn": Registered("ingest.detect.mtcnn", results=1),
    "retinaface_resnet50": Registered("ingest.detect.retinaface", results=1, has_weights=False),
    "retinaface_mobilenet0.25": Registered("ingest.detect.retinaface", results=1, has_weights=False),
}
