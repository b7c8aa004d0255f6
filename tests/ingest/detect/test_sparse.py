"""Detection in every k-th frame, held against detection in all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from ingest.decode.reader import FrameBatch
from ingest.detect.detector import Faces
from ingest.detect.options import DetectorOptions
from ingest.detect.sparse import detected

SIZE = 64


class Squares:
    """Finds squares whose colours are single bright values of the red channel. `searched` counts frames."""

    def __init__(self) -> None:
        self.searched = 0

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Faces]:
        self.searched += len(rgb)
        return [self._faces(frame[..., 0]) for frame in rgb]

    def _faces(self, red: NDArray[np.uint8]) -> Faces:
        boxes = []
        for value in np.unique(red[red > 200]):
            rows, columns = np.nonzero(red == value)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, value))
        found = np.array(boxes, np.float32).reshape(-1, 5)[::-1]
        landmarks = np.repeat(found[:, None, :2], 5, axis=1)
        return Faces(found[:, :4], landmarks, found[:, 4] / 255)


def picture(*squares: tuple[int, int, int], ground: int = 0, side: int = 20) -> NDArray[np.uint8]:
    """Squares (x, y, value) on a ground."""
    frame = np.full((SIZE, SIZE, 3), ground, np.uint8)
    for x, y, value in squares:
        frame[y : y + side, x : x + side] = (value, 0, 0)
    return frame


def run(frames: list[NDArray[np.uint8]], every: int, batches: list[int]) -> tuple[list[Faces], list[int], int]:
    """The faces of each frame, the frames' indices, and how many were searched. `batches`: their sizes."""
    rgb, ends = np.stack(frames), np.cumsum(batches)

    def given_in_batches():
        memory = np.zeros((max(batches), SIZE, SIZE, 3), np.uint8)
        for stop, size in zip(ends, batches, strict=True):
            memory[:size] = rgb[stop - size : stop]  # the decoder's memory: each batch overwrites the one before
            index = np.arange(stop - size, stop)
            yield FrameBatch(memory[:size], index, index / 25, np.full(size, 0.04))

    finder, faces, indices = Squares(), [], []
    for batch, found in detected(given_in_batches(), finder, every):
        assert len(batch) == len(found)
        np.testing.assert_array_equal(batch.rgb, rgb[batch.frame_index])
        faces += found
        indices += batch.frame_index.tolist()
    return faces, indices, finder.searched


def check(frames: list[NDArray[np.uint8]], every: int, atol: float = 1e-4) -> int:
    """Checks that all faces are those of a search of all frames; returns how many frames were searched."""
    found, indices, searched = run(frames, every, [len(frames)])
    dense = Squares()(np.stack(frames))
    assert indices == list(range(len(frames)))
    for a, b in zip(found, dense, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=atol)
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=atol)
        np.testing.assert_allclose(a.scores, b.scores, atol=atol)
    return searched


def test_faces_that_move_evenly_are_interpolated_exactly() -> None:
    frames = [picture((2 + n, 4, 255), (40 - n, 40, 240)) for n in range(21)]
    assert check(frames, 5) == 5
    assert check(frames, 1) == 21


def test_frames_without_a_face_are_searched_as_rarely() -> None:
    assert check([picture() for _ in range(31)], 10) == 4


def test_a_face_that_comes_and_one_that_goes_have_their_very_frames() -> None:
    frames = [picture(*([(10, 10, 255)] * (n >= 7)), *([(40, 40, 240)] * (n < 14))) for n in range(21)]
    assert check(frames, 5) < 14


def test_a_cut_between_two_faces_in_one_place_is_not_interpolated() -> None:
    frames = [picture((10, 10, 255), ground=20) for _ in range(8)]
    frames += [picture((14, 10, 255), ground=90) for _ in range(8)]
    assert check(frames, 5) < 12


def test_a_face_that_moves_fast_is_searched_in_each_frame() -> None:
    assert check([picture((n * 9, 10, 255)) for n in range(5)], 4) == 5


def test_two_faces_that_cross_keep_their_places() -> None:
    frames = [picture((4 + n, 10, 255), (24 - n, 24, 240), side=12) for n in range(21)]
    check(frames, 4)


def test_the_frames_after_the_last_of_the_grid_are_there() -> None:
    for count in range(1, 12):
        assert check([picture((2 + n, 4, 255)) for n in range(count)], 5) <= 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_faces_do_not_depend_on_the_batches(batches: list[int], every: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, x = sum(batches), 20
    frames = []
    for _ in range(count):
        x = int(np.clip(x + rng.integers(-3, 4), 0, 40))
        frames.append(picture(*([(x, 10, 255)] * (rng.random() < 0.9)), ground=int(rng.choice([0, 60], p=[0.9, 0.1]))))
    found, indices, searched = run(frames, every, batches)
    whole, _, as_many = run(frames, every, [count])
    assert indices == list(range(count))
    assert searched == as_many
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_a_video_without_frames_has_no_batches() -> None:
    assert list(detected([], Squares(), 5)) == []


@pytest.mark.parametrize("every", [2, 5])
def test_scores_fall_within_a_frame(every: int) -> None:
    frames = [picture((2, 4, 255 - n), (40, 40, 235 + n)) for n in range(15)]
    for faces in run(frames, every, [15])[0]:
        assert (np.diff(faces.scores) <= 0).all()


@pytest.mark.parametrize("wrong", ["x", 0, -1, 1.5, None])
def test_how_many_frames_are_searched_is_a_number_or_auto(wrong: Any) -> None:
    assert DetectorOptions(every="7").every == 7
    assert DetectorOptions(every="auto").every == "auto"
    with pytest.raises(ValidationError, match="should be auto or a whole number from 1 on"):
        DetectorOptions(every=wrong)
