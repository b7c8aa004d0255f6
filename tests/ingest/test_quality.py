"""When a face's row says low_quality."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.detect.detector import Faces
from ingest.quality import QualityOptions, status

GOOD = {"box": (100.0, 100.0, 160.0, 180.0), "eyes": 26.0, "score": 0.99, "degenerate": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "ok"),
        ({"eyes": 11.9}, "low_quality"),
        ({"score": 0.89}, "low_quality"),
        ({"degenerate": True}, "low_quality"),
        ({"box": (-29.0, 100.0, 31.0, 180.0)}, "ok"),
        ({"box": (-31.0, 100.0, 29.0, 180.0)}, "low_quality"),
        ({"box": (300.0, 100.0, 360.0, 180.0)}, "low_quality"),
        ({"box": (270.0, 195.0, 330.0, 275.0)}, "low_quality"),  # half of each side, a quarter of the box
    ],
)
def test_a_face_is_low_quality_if_any_bound_is_missed(change: dict, expected: str) -> None:
    face = GOOD | change
    landmarks = np.zeros((1, 5, 2), np.float32)
    landmarks[0, 1, 0] = face["eyes"]
    faces = Faces(np.array([face["box"]], np.float32), landmarks, np.array([face["score"]], np.float32))
    found = status(faces, np.array([face["degenerate"]]), (240, 300), QualityOptions())
    assert found.tolist() == [expected]


def test_no_faces_have_no_status() -> None:
    none = Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
    assert status(none, np.zeros(0, bool), (240, 300), QualityOptions()).tolist() == []
