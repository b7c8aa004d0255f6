"""The arithmetic of windows, by cases that can be counted on fingers."""

from __future__ import annotations

import numpy as np
import pytest

from common import windows


def test_points_take_the_frames_nearest_to_them() -> None:
    places = windows.positions(np.array([5.0, 5.033, 5.05, 5.2]), 5.0, 30)
    assert places.tolist() == [0, 1, pytest.approx(1.5), 6]
    assert windows.points(places).tolist() == [0, 1, 1, 6]


@pytest.mark.parametrize("first", range(6))
def test_a_track_of_a_60_fps_file_in_milliseconds_gives_every_other_frame_wherever_it_begins(first: int) -> None:
    times = np.round(np.arange(first, first + 640) / 60, 3)
    source, own = windows.hold(windows.points(windows.positions(times, times[0], 30)))
    assert own.all()
    assert set(np.diff(source[1:]).tolist()) == {2}, "no frame is held twice and none is passed over"


def test_hold_repeats_the_latest_frame_and_says_which_points_have_one_of_their_own() -> None:
    source, own = windows.hold(np.array([0, 1, 1, 4]))
    assert source.tolist() == [0, 2, 2, 2, 3]
    assert own.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [0]), (4, [0]), (5, [0, 3]), (7, [0, 3]), (8, [0, 3, 6]), (10, [0, 3, 6])]
)
def test_starts_leave_no_point_out_and_no_window_empty(n: int, expected: list[int]) -> None:
    assert windows.starts(n, 4, 3).tolist() == expected


def test_starts_refuse_a_stride_that_leaves_points_out() -> None:
    with pytest.raises(ValueError, match="leave points out"):
        windows.starts(10, 4, 5)


def test_cut_pads_and_masks_the_tail_and_zeroes_what_is_masked() -> None:
    features = np.arange(1.0, 7)[:, None]
    pieces, mask = windows.cut(features, np.array([1, 1, 0, 1, 1, 1], bool), 4, 3)
    assert pieces[:, :, 0].tolist() == [[1, 2, 0, 4], [4, 5, 6, 0]]
    assert mask.tolist() == [[True, True, False, True], [True, True, True, False]]


def test_average_weighs_overlapping_windows_equally() -> None:
    predictions = np.array([[1, 1, 1, 1], [3, 3, 3, 9]])[:, :, None]
    assert windows.average(predictions, 6, 3)[:, 0].tolist() == [1, 1, 1, 2, 3, 3]


def test_at_frames_is_linear_between_points_and_passes_over_masked_ones() -> None:
    predictions = np.array([0.0, 10, np.nan, 30])[:, None]
    valid = np.array([True, True, False, True])
    places = np.array([0, 0.25, 1, 1.4, 2.6, 3, 3.4])
    assert windows.at_frames(predictions, valid, places)[:, 0].tolist() == [0, 2.5, 10, 10, 30, 30, 30]


def test_breaks_are_absences_that_would_fill_a_window() -> None:
    times = np.array([0, 0.2, 12, 24, 99])
    assert windows.breaks(times, 300, 25).tolist() == [False, False, True, True]
