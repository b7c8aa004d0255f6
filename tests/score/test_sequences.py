"""Windows over a track that arrives in pieces against a plain reference that sees the whole track at once."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.windows import TOLERANCE, Windowing
from score.sequences import Sequence

Model = Callable[[np.ndarray, np.ndarray], np.ndarray]


def identity(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return features


def contextual(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A model that looks at the whole window, at where in it a point is, and at the mask."""
    place = np.arange(len(features))[:, None] / len(features)
    mean = features[valid].mean(axis=0)
    return np.where(valid[:, None], features * (1 + place) + mean + valid.mean(), np.nan)


def reference(times: np.ndarray, features: np.ndarray, model: Model, windowing: Windowing) -> np.ndarray:
    """The written rule, point by point."""
    window, stride, fps = windowing.window, windowing.stride, windowing.fps
    places = [(t - times[0]) * fps for t in times]
    places = [round(p) if abs(p - round(p)) <= TOLERANCE else p for p in places]
    held, valid = [], []
    while not held or held[-1] < len(times) - 1:
        k = len(held)
        latest = max(i for i, p in enumerate(places) if p - 0.5 - TOLERANCE <= k)
        own = k == 0 or places[latest] - 0.5 - TOLERANCE > k - 1
        held.append(latest)
        valid.append(own or windowing.gaps == "repeat")
    n = len(held)
    collected: list[list[np.ndarray]] = [[] for _ in range(n)]
    for j in range(max(1, math.ceil((n - window) / stride) + 1)):
        inside = range(j * stride, min(j * stride + window, n))
        piece, mask = np.zeros((window, features.shape[1])), np.zeros(window, bool)
        for offset, k in enumerate(inside):
            if valid[k]:
                piece[offset], mask[offset] = features[held[k]], True
        out = model(piece, mask)
        for offset, k in enumerate(inside):
            collected[k].append(out[offset])
    points = [np.mean(each, axis=0) for each in collected]
    result = []
    for place in places:
        lower = min(math.floor(place), n - 1)
        upper = min(lower + 1, n - 1)
        if place <= lower or upper == lower or not valid[upper]:
            result.append(points[lower])
        elif not valid[lower]:
            result.append(points[upper])
        else:
            result.append((1 - (place - lower)) * points[lower] + (place - lower) * points[upper])
    return np.array(result)


def streamed(
    times: np.ndarray, features: np.ndarray, model: Model, windowing: Windowing, pieces: Iterable[int]
) -> np.ndarray:
    """The same through a Sequence, and that every frame is given exactly one prediction."""
    sequence = Sequence(windowing, float(times[0]))
    result = np.full((len(times), len(model(features[:1], np.array([True])).T)), np.nan)
    given_to = np.zeros(len(times), int)

    def accept(window) -> None:
        assert window.features.shape == (windowing.window, features.shape[1])
        slots, predictions = sequence.accept(window, model(window.features, window.valid))
        result[slots] = predictions
        given_to[slots] += 1

    at = 0
    for size in [*pieces, len(times)]:
        piece = slice(at, min(at + size, len(times)))
        if piece.start < piece.stop:
            for window in sequence.push(times[piece], features[piece], np.arange(piece.start, piece.stop)):
                accept(window)
        at = piece.stop
    accept(sequence.close())
    assert given_to.tolist() == [1] * len(times)
    return result


def a_track(n: int, fps: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 7.25 + np.arange(n) / fps, rng.normal(size=(n, 3)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 299, 300, 301, 499, 500, 501, 700, 701])
def test_identity_model_on_grid_frames_reproduces_each_feature(n: int) -> None:
    times, features = a_track(n, 25)
    windowing = Windowing(fps=25)
    np.testing.assert_allclose(streamed(times, features, identity, windowing, [64] * n), features, atol=1e-6)


@pytest.mark.parametrize(("n", "count"), [(1, 1), (299, 1), (300, 1), (301, 2), (500, 2), (501, 3), (700, 3), (701, 4)])
def test_number_of_windows_is_that_of_the_formula(n: int, count: int) -> None:
    times, features = a_track(n, 30)
    sequence = Sequence(Windowing(fps=30), float(times[0]))
    windows = [*sequence.push(times, features, np.arange(n)), sequence.close()]
    assert len(windows) == count
    assert [w.start for w in windows] == [200 * j for j in range(count)]
    assert windows[-1].valid.sum() == n - 200 * (count - 1)
    assert not windows[-1].features[~windows[-1].valid].any()


@pytest.mark.parametrize("gaps", ["repeat", "mask"])
@pytest.mark.parametrize(("from_fps", "to_fps"), [(25, 30), (60, 30), (30, 30), (29.97, 30), (23.976, 25), (5, 30)])
def test_resampled_track_equals_the_reference(from_fps: float, to_fps: float, gaps: str) -> None:
    times, features = a_track(420, from_fps)
    windowing = Windowing(fps=to_fps, gaps=gaps)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        streamed(times, features, contextual, windowing, [50] * 9),
        reference(times, features, contextual, windowing),
        atol=1e-5,
    )


@pytest.mark.parametrize("seconds_per_tick", [1 / 1000, 1 / 90_000])
def test_every_other_frame_of_60_fps_is_taken_however_the_container_rounds_its_times(seconds_per_tick: float) -> None:
    times, _ = a_track(640, 60)
    times = np.rint(times / seconds_per_tick) * seconds_per_tick
    features = np.arange(640, dtype=np.float32)[:, None]
    sequence = Sequence(Windowing(fps=30), float(times[0]))
    first = next(sequence.push(times, features, np.arange(640)))
    assert np.diff(first.features[:, 0]).tolist() == [2.0] * 299


tracks = st.tuples(
    st.lists(st.integers(0, 160), min_size=0, max_size=120),  # gaps in milliseconds, equal times among them
    st.sampled_from([10.0, 24.0, 25.0, 29.97, 30.0]),
    st.integers(6, 40),  # longer than any of the gaps
    st.integers(1, 40),
    st.sampled_from(["repeat", "mask"]),
    st.lists(st.integers(1, 50), max_size=20),
    st.integers(0, 2**16),
)


@settings(deadline=None, max_examples=150)
@given(tracks)
def test_variable_frame_rates_in_any_pieces_equal_the_reference(track: tuple) -> None:
    steps, fps, window, stride, gaps, pieces, seed = track
    windowing = Windowing(fps=fps, window=max(window, stride), stride=min(window, stride), gaps=gaps)
    times = 3.5 + np.cumsum([0, *steps]) / 1000
    features = np.random.default_rng(seed).normal(size=(len(times), 2)).astype(np.float32)
    expected = reference(times, features, contextual, windowing)
    np.testing.assert_allclose(streamed(times, features, contextual, windowing, pieces), expected, atol=1e-5)
    assert not np.isnan(expected).any()


@settings(deadline=None, max_examples=50)
@given(tracks)
def test_constant_model_gives_that_constant_to_every_frame(track: tuple) -> None:
    steps, fps, window, stride, gaps, pieces, _ = track
    windowing = Windowing(fps=fps, window=max(window, stride), stride=min(window, stride), gaps=gaps)
    times = np.cumsum([0, *steps]) / 1000

    def constant(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.float32([0.1, -1, 1]), (len(features), 3))

    result = streamed(times, np.zeros((len(times), 3), np.float32), constant, windowing, pieces)
    assert (result == np.float32([0.1, -1, 1])).all()


def test_a_time_that_runs_backwards_counts_as_its_predecessors() -> None:
    times, features = a_track(50, 25)
    windowing = Windowing(fps=25)
    torn = times.copy()
    torn[20:23] = times[10]
    level = times.copy()
    level[20:23] = times[19]
    np.testing.assert_array_equal(
        streamed(torn, features, contextual, windowing, [7] * 8),
        streamed(level, features, contextual, windowing, [50]),
    )


def test_what_a_track_of_hours_holds_does_not_grow() -> None:
    windowing = Windowing(fps=25)
    sequence = Sequence(windowing, 0.0)
    features = np.zeros((100, 256), np.float32)
    tracemalloc.start()
    peaks = []
    for number in range(2700):  # three hours at 25 frames/s
        frames = np.arange(number * 100, number * 100 + 100)
        for window in sequence.push(frames / 25, features, frames):
            sequence.accept(window, np.zeros((300, 22), np.float32))
        if number in (30, 2699):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 10e6


def test_a_stride_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="frames would be left out"):
        Windowing(fps=25, window=100, stride=101)
