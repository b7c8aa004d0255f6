"""Cuts are seen; motion, light and fades are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from ingest.cuts import CutFinder
from ingest.decode.reader import open_video


def cuts(frames: list[np.ndarray]) -> list[int]:
    find = CutFinder()
    return [i for i, frame in enumerate(frames) if find(frame)]


def test_the_first_frame_of_another_picture_is_a_cut() -> None:
    one, other = data.astronaut()[:300, :400], data.coffee()[:300, :400]
    assert cuts([one, one, other, other, one]) == [2, 4]


def test_noise_pans_fades_and_a_face_coming_near_are_no_cuts() -> None:
    picture = data.astronaut()
    noise = np.random.default_rng(0).normal(0, 12, (6, *picture.shape))
    assert cuts([np.clip(picture + n, 0, 255).astype(np.uint8) for n in noise]) == []
    assert cuts([picture[100:400, x : x + 300] for x in range(0, 200, 12)]) == []
    assert cuts([(picture * share).astype(np.uint8) for share in np.linspace(1, 0, 12)]) == []
    assert cuts([picture[k : 400 - k, k : 400 - k] for k in range(0, 120, 8)]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bikes.mp4", [30, 76, 137, 187, 242]),
        ("face_noface.mov", [72, 73]),
        ("WolfgangLanger_Pexels.mp4", []),
        ("chaplin.mp4", []),
        ("awesome movie.mov", []),
    ],
)
def test_cuts_of_real_clips_as_they_were_seen_by_eye(clips: Path, name: str, expected: list[int]) -> None:
    with open_video(clips / name) as reader:
        find, found = CutFinder(), []
        for batch in reader:
            found += [int(i) for i, rgb in zip(batch.frame_index, batch.rgb, strict=True) if find(rgb)]
    assert found == expected
