"""Times of frames: as stated wherever that can be true, and ascending whatever is stated."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decode.child.clock import Clock


def told(stated: list[float | None], period_s: float = 1.0) -> list[float]:
    clock = Clock(period_s)
    return [clock.tick(now, following) for now, following in zip(stated, [*stated[1:], None], strict=True)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, unique=True).map(sorted))
def test_ascending_times_are_kept_whatever_their_distances(stated: list[float]) -> None:
    assert told(stated) == stated


@given(st.integers(0, 19), st.one_of(st.none(), st.floats(-1e9, 1e9)))
def test_one_wrong_time_is_the_only_one_that_is_lost(place: int, wrong: float | None) -> None:
    stated: list[float | None] = [float(n) for n in range(20)]
    stated[place] = wrong
    times = told(stated)
    assert all(times[n] == n for n in range(20) if n != place)
    assert all(a < b for a, b in pairwise(times))


anything = st.one_of(st.none(), st.floats(-1e18, 1e18), st.integers(-3, 3).map(float))


@given(st.lists(anything, min_size=1, max_size=40))
def test_times_ascend_whatever_is_stated(stated: list[float | None]) -> None:
    assert all(a < b for a, b in pairwise(told(stated)))


def test_a_recording_joined_from_two_goes_on_with_the_distances_of_the_second() -> None:
    assert told([0, 1, 2, 3, 0, 1, 5, 6]) == [0, 1, 2, 3, 4, 5, 9, 10]


def test_a_clock_that_was_wrong_for_a_while_is_followed_again_afterwards() -> None:
    assert told([10, 11, 12, 0, 1, 15, 16]) == [10, 11, 12, 13, 14, 15, 16]


def test_frames_without_a_time_come_a_period_apart_and_before_the_next_one_that_has_one() -> None:
    assert told([0, None, None, 3]) == [0, 1, 2, 3]
    assert told([0, None, 1]) == [0, 0.5, 1]
    assert told([None, None]) == [0, 1]


def test_a_frame_lasts_as_long_as_it_says() -> None:
    clock = Clock(1.0)
    clock.tick(2.0, None, 0.25)
    assert (clock.first_s, clock.last_s, clock.end_s) == (2.0, 2.0, 2.25)
    assert clock.tick(None, None) == pytest.approx(2.25)
