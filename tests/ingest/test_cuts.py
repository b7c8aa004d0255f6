"""Cuts and dissolves are seen; motion, light, flashes and fades are none. Frames that a person named are the truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from ingest.cuts import FAR, NEAR, CutFinder
from ingest.decode.reader import open_video

Pictures = list[np.ndarray]


def cuts(frames: Pictures, sizes: list[int] | None = None) -> list[int]:
    """Where shots begin; the frames are given in batches of these sizes, then one by one."""
    finder, told, rest = CutFinder(), [], list(frames)
    for size in [*(sizes or []), *[1] * len(frames)]:
        if rest:
            told += finder.see(np.stack(rest[:size]))
            rest = rest[size:]
    told += finder.end()
    assert len(told) == len(frames)
    return [frame for frame, begins in enumerate(told) if begins]


def panned(picture: np.ndarray, frames: int, speed: int) -> Pictures:
    """A camera that moves to the right, `speed` pixels a frame."""
    return [picture[60:360, speed * i : speed * i + 300] for i in range(frames)]


def dissolved(one: Pictures, other: Pictures, frames: int) -> Pictures:
    """`one` goes over into `other` during its last `frames`, as long as the first ones of `other`."""
    weights = np.arange(1, frames + 1) / (frames + 1)
    mixed = [a * (1 - w) + b * w for a, b, w in zip(one[-frames:], other[:frames], weights, strict=True)]
    return [*one[:-frames], *(mix.astype(np.uint8) for mix in mixed), *other[frames:]]


ASTRONAUT, COFFEE, CAT = data.astronaut(), data.coffee(), data.chelsea()


def test_the_first_frame_of_another_picture_is_a_cut() -> None:
    one, other, third = (picture[:300, :400] for picture in (ASTRONAUT, COFFEE, CAT))
    assert cuts([one] * 2 + [other] * 5 + [third] * 4) == [2, 7]


def test_a_cut_between_dark_pictures_that_differ_little_in_grey_levels_is_seen() -> None:
    dark = [(picture[:300, :400] * 0.12).astype(np.uint8) for picture in (ASTRONAUT, COFFEE)]
    assert np.abs(dark[0].astype(int) - dark[1]).mean() < 15
    assert cuts([dark[0]] * 8 + [dark[1]] * 8) == [8]


def test_a_cut_in_the_middle_of_two_pans_is_seen_and_the_pans_are_not() -> None:
    assert cuts(panned(ASTRONAUT, 12, 12) + panned(COFFEE, 12, 12)) == [12]


def test_noise_pans_fades_and_a_face_coming_near_are_no_cuts() -> None:
    picture = ASTRONAUT
    noise = np.random.default_rng(0).normal(0, 12, (6, *picture.shape))
    assert cuts([np.clip(picture + n, 0, 255).astype(np.uint8) for n in noise]) == []
    for speed in (3, 12, 25):
        assert cuts(panned(picture, 12, 0) + panned(picture, 8, speed)) == []
    for length in (12, 30):
        assert cuts([(picture * share).astype(np.uint8) for share in np.linspace(1, 0, length)]) == []
    assert cuts([picture[k : 400 - k, k : 400 - k] for k in range(0, 120, 8)]) == []


def test_a_light_that_is_switched_on_is_no_cut() -> None:
    dim = (ASTRONAUT * 0.4).astype(np.uint8)
    assert cuts([dim] * 10 + [ASTRONAUT] * 10) == []


@pytest.mark.parametrize("length", range(1, NEAR))
def test_a_flash_and_a_picture_shown_for_a_moment_are_no_cuts(length: int) -> None:
    shot = panned(ASTRONAUT, 20, 3)
    flash = [np.clip(frame * 1.8 + 90.0, 0, 255).astype(np.uint8) for frame in shot]
    assert cuts(shot[:9] + flash[9 : 9 + length] + shot[9 + length :]) == []
    assert cuts(shot[:9] + [COFFEE[:300, :300]] * length + shot[9 + length :]) == []


@pytest.mark.parametrize("length", [4, 8, 16, 24])
def test_a_dissolve_is_one_cut_on_its_way(length: int) -> None:
    one, other = panned(ASTRONAUT, 40, 1), panned(COFFEE, 40, 1)
    (found,) = cuts(dissolved(one, other, length))
    assert 40 - length < found <= 40


def test_a_fade_to_black_and_from_it_is_no_dissolve() -> None:
    share = np.concatenate([np.ones(20), np.linspace(1, 0, 20), np.zeros(10), np.linspace(0, 1, 20), np.ones(20)])
    assert cuts([(ASTRONAUT * each).astype(np.uint8) for each in share]) == []


@given(sizes=st.lists(st.integers(1, 40), max_size=9))
def test_answers_do_not_depend_on_the_batches_and_come_a_few_frames_late(sizes: list[int]) -> None:
    small = [[cv2.resize(f, (40, 40)) for f in panned(picture, 30, 2)] for picture in (ASTRONAUT, COFFEE, CAT)]
    frames = dissolved(small[0] + small[1], small[2], 10)
    assert cuts(frames, sizes) == cuts(frames) != []
    finder, told = CutFinder(), 0
    for seen, frame in enumerate(frames, start=1):
        told += len(finder.see(frame[None]))
        assert told == max(0, seen - FAR + 1)


def test_a_video_of_one_frame_and_none_at_all_have_no_cut() -> None:
    assert cuts([ASTRONAUT]) == []
    assert CutFinder().end() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "by_eye"),
    [
        ("bikes.mp4", [30, 76, 137, 187, 242]),
        ("face_noface.mov", [72, 73]),
        ("WolfgangLanger_Pexels.mp4", []),
        ("chaplin.mp4", []),
        ("awesome movie.mov", []),
        ("flipping_a_pancake.mkv", []),
        ("file+with+data&streams=works?.mp4", []),
        ("sintel_30s.mp4", [286, 348, 356, 372, 523, 573, 610, 624]),
    ],
)
def test_cuts_of_real_clips_as_they_were_seen_by_eye(clips: Path, name: str, by_eye: list[int]) -> None:
    assert found_in(clips / name) == by_eye


@pytest.mark.slow
def test_a_real_dissolve_is_seen_within_its_length(odd: Path) -> None:
    dissolve, cut = found_in(odd / "nasa_13013.mp4")
    assert 148 <= dissolve <= 178
    assert cut == 240


def found_in(path: Path) -> list[int]:
    finder, told = CutFinder(), []
    with open_video(path) as reader:
        for batch in reader:
            told += finder.see(batch.rgb)
    return [frame for frame, begins in enumerate(told + finder.end()) if begins]
