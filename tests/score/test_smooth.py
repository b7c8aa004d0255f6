"""Averages over neighbouring frames of a track, against pandas' rolling windows over whole tracks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.commit.units import Video
from common.faces import FaceBatch
from common.labels import ACTION_UNITS, EXPRESSION_COLUMNS, EXPRESSIONS, VALENCE_AROUSAL
from common.lake.layout import Lake
from common.windows import Windowing
from score import job
from score.smooth import MOST_FRAMES, frames_of, smoothed
from score.stream import ScoreOptions, scores

VIDEO = Video(uri="/clips/a.mp4", version="1-2", size=1)
PREDICTIONS = (*VALENCE_AROUSAL, *EXPRESSION_COLUMNS, *ACTION_UNITS)


def frames_with(present: np.ndarray, first: int = 0) -> FaceBatch:
    """Frames from number `first`; present: bool [F, T], whether a track has a face in a frame."""
    row, track = np.nonzero(present)
    m = len(row)
    return FaceBatch(
        frame_index=np.arange(first, first + len(present), dtype=np.int32),
        time_s=np.arange(len(present)) / 25,
        duration_s=np.full(len(present), 0.04),
        row=row.astype(np.int32),
        track_id=track.astype(np.int32),
        box=np.zeros((m, 4), np.float32),
        landmarks=np.zeros((m, 5, 2), np.float32),
        score=np.ones(m, np.float32),
        yaw=np.zeros(m, np.float32),
        sharpness=np.ones(m, np.float32),
        status=np.full(m, "ok"),
        crops=np.zeros((0, 0, 0, 3), np.uint8),
    )


def pieces_of(values: np.ndarray, cuts: list[int]) -> Iterator[tuple[FaceBatch, np.ndarray]]:
    """values [F, T, K], NaN where a track has no face, as batches that end at the frames `cuts`."""
    for start, end in pairwise([0, *cuts, len(values)]):
        present = ~np.isnan(values[start:end, :, 0])
        yield frames_with(present, start), values[start:end][present]


def means(values: np.ndarray, cuts: list[int], box: int) -> np.ndarray:
    """What comes out for `values` [F, T, K], in their form; that batches are whole and in order, too."""
    found = np.full(values.shape, np.nan, np.float32)
    expected = list(pieces_of(values, cuts))
    given = list(smoothed(pieces_of(values, cuts), f"box:{box}"))
    assert [faces.frame_index.tolist() for faces, _ in given] == [faces.frame_index.tolist() for faces, _ in expected]
    for faces, predictions in given:
        assert predictions.dtype == np.float32
        found[faces.frame_index[faces.row], faces.track_id] = predictions
    return found


def rolling(values: np.ndarray, box: int) -> np.ndarray:
    """The same by pandas, which leaves NaN out of its means; one track after the other."""
    result = np.full(values.shape, np.nan)
    for track in range(values.shape[1]):
        whole = pd.DataFrame(values[:, track].astype(np.float64))
        result[:, track] = whole.rolling(box, center=True, min_periods=1).mean()
    return np.where(np.isnan(values), np.nan, result)


def tracks_of(seed: int, frames: int, tracks: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (frames, tracks, 3)).astype(np.float32)
    values[rng.random((frames, tracks)) > share] = np.nan
    return values


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**16),
    st.integers(1, 60),
    st.integers(1, 3),
    st.floats(0.1, 1),
    st.integers(2, 80),
    st.sets(st.integers(1, 60), max_size=8),
)
def test_means_equal_pandas_rolling_windows_of_each_track_in_any_pieces(
    seed: int, frames: int, tracks: int, share: float, box: int, cuts: set[int]
) -> None:
    values = tracks_of(seed, frames, tracks, share)
    found = means(values, sorted(cut for cut in cuts if cut < frames), box)
    np.testing.assert_allclose(found, rolling(values, box), atol=1e-6)


@pytest.mark.parametrize(("box", "inside"), [(2, [4, 5]), (3, [4, 5, 6]), (4, [3, 4, 5, 6]), (5, [3, 4, 5, 6, 7])])
def test_an_even_box_reaches_one_frame_further_back(box: int, inside: list[int]) -> None:
    values = (np.arange(12, dtype=np.float32) ** 2)[:, None, None]
    assert means(values, [], box)[5, 0, 0] == np.mean([frame**2 for frame in inside], dtype=np.float32)


def test_every_bit_is_the_same_however_the_video_was_cut_into_batches() -> None:
    values = tracks_of(3, 400, 2, 0.8)
    whole = means(values, [], 50)
    np.testing.assert_array_equal(means(values, list(range(1, 400)), 50), whole)
    np.testing.assert_array_equal(means(values, [7, 30, 31, 200], 50), whole)


def test_a_frame_that_was_not_decoded_counts_as_one_without_a_face() -> None:
    """As of `--every 5`: a box of ten frames of the video holds two of those that were taken."""
    values = np.arange(4, dtype=np.float32)[:, None]
    taken = replace(frames_with(np.ones((4, 1), bool)), frame_index=np.arange(4, dtype=np.int32) * 5)
    ((_, found),) = smoothed([(taken, values)], "box:10")
    assert found[:, 0].tolist() == [0, 0.5, 1.5, 2.5]


def test_what_is_held_does_not_grow_with_the_track() -> None:
    peaks = []

    def half_an_hour() -> Iterator[tuple[FaceBatch, np.ndarray]]:
        for number in range(450):
            yield frames_with(np.ones((100, 1), bool), number * 100), np.zeros((100, 22), np.float32)
            if number in (30, 449):
                peaks.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    assert sum(len(faces) for faces, _ in smoothed(half_an_hour(), "box:250")) == 45_000
    tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 5e6


FACES = {0: [*range(60), *range(70, 140)], 1: list(range(30, 90)), 2: [5]}
HEADS = {"va": Windowing(fps=25, window=50, stride=20), "expr": None, "au": None}


def table_of(model: object, batches: Iterator[FaceBatch], **options: object) -> pd.DataFrame:
    return pa.concat_tables(scores(batches, model, VIDEO, ScoreOptions(**options))).to_pandas()


@pytest.mark.parametrize("smooth", ["box:2", "box:25"])
def test_smoothed_rows_are_the_rolling_means_of_the_plain_rows(arithmetic_model, make_faces, smooth: str) -> None:
    plain = table_of(arithmetic_model(HEADS), make_faces(FACES, 160))
    found = table_of(arithmetic_model(HEADS), make_faces(FACES, 160), smooth=smooth)
    others = plain.columns.difference([*PREDICTIONS, "expression"])
    pd.testing.assert_frame_equal(found[others], plain[others])
    keys = zip(plain.frame_index, plain.track_id, strict=True)
    numbers = {key: row for row, key in enumerate(keys)}
    for track, frames in FACES.items():
        rows = [numbers[frame, track] for frame in frames]
        whole = plain.loc[rows, list(PREDICTIONS)].set_index(pd.Index(frames)).reindex(range(160))
        expected = whole.astype(float).rolling(frames_of(smooth), center=True, min_periods=1).mean().loc[frames]
        np.testing.assert_allclose(found.loc[rows, list(PREDICTIONS)], expected, atol=1e-6)


def test_smoothed_expressions_sum_to_1_and_the_named_one_is_the_most_probable_mean(
    arithmetic_model, make_faces
) -> None:
    plain = table_of(arithmetic_model(HEADS), make_faces(FACES, 160))
    found = table_of(arithmetic_model(HEADS), make_faces(FACES, 160), smooth="box:25")
    faces = found.face_status != "no_face"
    probabilities = found.loc[faces, list(EXPRESSION_COLUMNS)].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert found.expression[faces].tolist() == [EXPRESSIONS[best] for best in probabilities.argmax(axis=1)]
    assert (found.expression != plain.expression)[faces].any()


@pytest.mark.parametrize("options", [{"batch_size": 7, "window_batch": 3}, {"table_rows": 20}])
def test_smoothed_rows_do_not_depend_on_the_sizes_of_batches(arithmetic_model, make_faces, options: dict) -> None:
    usual = table_of(arithmetic_model(HEADS), make_faces(FACES, 160), smooth="box:9")
    other = table_of(arithmetic_model(HEADS), make_faces(FACES, 160, size=11), smooth="box:9", **options)
    np.testing.assert_allclose(
        usual[list(PREDICTIONS)].astype(float), other[list(PREDICTIONS)].astype(float), atol=1e-5
    )


@pytest.mark.parametrize("text", ["box:0", "box:1", "box:-3", "box:", "box", "box:2.5", "gauss:3", "50", "", "box:050"])
def test_what_is_no_box_of_at_least_two_frames_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="should be box:N"):
        frames_of(text)


def test_the_largest_box_bounds_what_is_held() -> None:
    assert frames_of(f"box:{MOST_FRAMES}") == MOST_FRAMES
    with pytest.raises(ValueError, match=str(MOST_FRAMES)):
        frames_of(f"box:{MOST_FRAMES + 1}")


def test_the_models_name_shows_the_smoothing_if_there_is_any(tiny_bundle, tmp_path: Path) -> None:
    def destination(**changed: str) -> tuple[str, dict]:
        made = job.destination(Lake(str(tmp_path)), "clips", tiny_bundle, job.ScoreConfig(**changed), None)
        return dict(made.data.keys)["model"], made.config

    plain, described = destination()
    by_50, described_50 = destination(smooth="box:50")
    assert by_50.startswith(f"made-{tiny_bundle.manifest.id}-box50-")
    assert described_50 == described | {"smooth": "box:50"}
    assert len({plain, by_50, destination(smooth="box:51")[0]}) == 3
    assert plain.count("-") == 2
    assert described["smooth"] is None
