"""From faces to rows: every frame has one, every face exactly one, and how the work was cut up does not show."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from common import windows as grid
from common.commit.units import Video
from common.errors import MienError
from common.labels import (
    ACTION_UNITS,
    EXPRESSION_COLUMNS,
    EXPRESSIONS,
    FURTHER_EXPRESSION_COLUMNS,
    VALENCE_AROUSAL,
)
from common.lake.schema import SCORES
from common.windows import Windowing
from score.stream import ScoreOptions, scores

VIDEO = Video(uri="/clips/a.mp4", version="1-2", size=1)
TASKS = {"va": VALENCE_AROUSAL, "expr": EXPRESSION_COLUMNS, "au": ACTION_UNITS}
FRAMES = 1200
FACES = {
    0: [*range(420), *range(430, 640)],  # a gap that the tracker bridges
    1: [5],
    2: list(range(100, 401)),
    3: [*range(650, 700), *range(1001, 1150)],  # away for longer than a window
}


def windowing(**changed) -> Windowing:
    return Windowing(**({"fps": 25, "window": 300, "stride": 200} | changed))


def rows(model, batches, **options) -> pa.Table:
    tables = list(scores(batches, model, VIDEO, ScoreOptions(**options)))
    assert all(table.schema.equals(SCORES, check_metadata=True) for table in tables)
    return pa.concat_tables(tables) if tables else SCORES.empty_table()


def by_key(table: pa.Table, columns: tuple[str, ...]) -> dict[tuple[int, int], np.ndarray]:
    faces = table.filter(pa.compute.is_valid(table["track_id"])).to_pylist()
    return {(row["frame_index"], row["track_id"]): np.array([row[c] for c in columns], np.float64) for row in faces}


def offline(model, batches, wanted: Windowing) -> dict[tuple[int, int], np.ndarray]:
    """Predictions with each sequence of each track held whole, one window a call."""
    collected: dict[int, list[tuple[int, float, np.ndarray]]] = {}
    for batch in batches:
        for row, track, crop in zip(batch.row, batch.track_id, batch.crops, strict=True):
            feature = model.encode(crop[None])[0]
            collected.setdefault(int(track), []).append((int(batch.frame_index[row]), batch.time_s[row], feature))
    result = {}
    for track, faces in collected.items():
        frames, times, features = (np.array(each) for each in zip(*faces, strict=True))
        ends = grid.breaks(times, wanted.window, wanted.fps)
        for piece in np.split(np.arange(len(frames)), np.flatnonzero(ends) + 1):
            places = grid.positions(times[piece], times[piece[0]], wanted.fps)
            source, own = grid.hold(grid.points(places))
            valid = own if wanted.gaps == "mask" else np.ones_like(own)
            pieces, masks = grid.cut(features[piece][source], valid, wanted.window, wanted.stride)
            outputs = [model.predict(TASKS, p[None], m[None]) for p, m in zip(pieces, masks, strict=True)]
            joined = np.stack([np.concatenate([out[task][0] for task in TASKS], axis=1) for out in outputs])
            given = grid.at_frames(grid.average(joined, len(source), wanted.stride), valid, places)
            result |= {(int(f), track): values for f, values in zip(frames[piece], given, strict=True)}
    return result


@pytest.mark.parametrize(
    "changed", [{}, {"fps": 30.0}, {"gaps": "mask"}, {"fps": 10.0, "gaps": "mask"}, {"window": 50, "stride": 20}]
)
def test_predictions_equal_those_of_tracks_held_whole(arithmetic_model, make_faces, changed) -> None:
    columns = (*VALENCE_AROUSAL, *EXPRESSION_COLUMNS, *ACTION_UNITS)
    table = rows(arithmetic_model(windowing(**changed)), make_faces(FACES, FRAMES))
    expected = offline(arithmetic_model(), make_faces(FACES, FRAMES), windowing(**changed))
    found = by_key(table, columns)
    assert found.keys() == expected.keys()
    assert len(found) == sum(map(len, FACES.values()))
    for key, values in found.items():
        np.testing.assert_allclose(values, expected[key], atol=1e-5, err_msg=str(key))


MIXED = {"va": Windowing(fps=25), "expr": None, "au": Windowing(fps=30, window=50, stride=20, gaps="mask")}


def test_each_head_predicts_over_its_own_windows_as_if_it_were_alone(arithmetic_model, make_faces) -> None:
    mixed = rows(arithmetic_model(MIXED), make_faces(FACES, FRAMES))
    for task, columns in TASKS.items():
        alone = rows(arithmetic_model(MIXED[task], tasks=(task,)), make_faces(FACES, FRAMES))
        for column in columns:
            np.testing.assert_allclose(mixed[column].to_pandas(), alone[column].to_pandas(), atol=1e-5, err_msg=column)


def test_a_head_without_windows_predicts_from_each_face_by_itself(arithmetic_model, make_faces) -> None:
    """At 25 frames/s its neighbours' windows are resampled; its own predictions are of the face as it is."""
    model = arithmetic_model(MIXED)
    found = by_key(rows(model, make_faces(FACES, FRAMES)), EXPRESSION_COLUMNS)
    seen = 0
    for batch in make_faces(FACES, FRAMES):
        for row, track, crop in zip(batch.row, batch.track_id, batch.crops, strict=True):
            feature = model.encode(crop[None])[:, None]
            expected = model.predict(["expr"], feature, np.ones((1, 1), bool))["expr"][0, 0]
            np.testing.assert_allclose(found[int(batch.frame_index[row]), int(track)], expected, atol=1e-5)
            seen += 1
    assert seen == len(found)


def test_heads_of_the_same_windows_are_called_together(arithmetic_model, make_faces) -> None:
    apart = {"va": Windowing(fps=25), "expr": Windowing(fps=25), "au": Windowing(fps=24)}
    together, separate = arithmetic_model(Windowing(fps=25)), arithmetic_model(apart)
    for model in (together, separate):
        rows(model, make_faces({0: list(range(100))}, 100))
    assert (together.calls, separate.calls) == ([1], [1, 1])


def test_every_frame_has_a_row_in_order_and_frames_without_a_face_have_nulls(arithmetic_model, make_faces) -> None:
    low = frozenset({(5, 1), (7, 0)})
    table = rows(arithmetic_model(), make_faces(FACES, FRAMES, low_quality=low)).to_pandas()
    assert sorted(set(table.frame_index)) == list(range(FRAMES))
    assert table.equals(table.sort_values(["frame_index", "track_id"], kind="stable"))
    with_face = set(itertools.chain(*FACES.values()))
    empty = table[table.face_status == "no_face"]
    assert set(empty.frame_index) == set(range(FRAMES)) - with_face
    of_frames = ["video_id", "uri", "video_name", "frame_index", "time_s", "frame_duration_s", "face_status"]
    assert empty.drop(columns=of_frames).isna().all(axis=None)
    faces = table[table.face_status != "no_face"].drop(columns=list(FURTHER_EXPRESSION_COLUMNS))
    assert faces.notna().all(axis=None)
    assert (
        set(zip(*faces[faces.face_status == "low_quality"][["frame_index", "track_id"]].T.values, strict=True)) == low
    )
    np.testing.assert_array_equal(table.time_s, table.frame_index / 25 + 0.5)
    assert (faces.box_x0 == faces.frame_index).all()
    assert (faces.box_y1 == faces.track_id + 9).all()
    probabilities = faces[list(EXPRESSION_COLUMNS)].to_numpy()
    assert faces.expression.tolist() == [EXPRESSIONS[i] for i in probabilities.argmax(1)]
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "options"),
    [(1, {"batch_size": 1, "window_batch": 1}), (50, {"batch_size": 7, "window_batch": 3}), (999, {"batch_size": 512})],
)
@pytest.mark.parametrize("heads", [Windowing(fps=25), MIXED], ids=["alike", "mixed"])
def test_rows_do_not_depend_on_how_the_work_was_cut_up(arithmetic_model, make_faces, heads, size, options) -> None:
    usual = rows(arithmetic_model(heads), make_faces(FACES, FRAMES))
    other = rows(arithmetic_model(heads), make_faces(FACES, FRAMES, size=size), table_rows=37, **options)
    keys = ["frame_index", "time_s", "track_id", "face_status", "box_x0"]
    assert usual.select(keys).equals(other.select(keys))
    for column in (*VALENCE_AROUSAL, *EXPRESSION_COLUMNS, *ACTION_UNITS):
        ours, theirs = (t[column].to_pandas().to_numpy() for t in (usual, other))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_the_bundle_lacks_is_null(arithmetic_model, make_faces, task: str) -> None:
    table = rows(arithmetic_model(tasks=(task,)), make_faces({0: list(range(10))}, 10))
    filled = {name for name in SCORES.names if table[name].null_count == 0}
    predicted = {*itertools.chain(*TASKS.values()), "expression"}
    assert filled & predicted == {*TASKS[task], *(["expression"] if task == "expr" else [])}


def test_outputs_fill_the_columns_of_the_bundles_own_classes(arithmetic_model, make_faces) -> None:
    usual = rows(arithmetic_model(), make_faces({0: list(range(10))}, 10)).to_pandas()
    turned = {"expr": EXPRESSIONS[::-1], "au": ACTION_UNITS[::-1]}
    other = rows(arithmetic_model(**turned), make_faces({0: list(range(10))}, 10)).to_pandas()
    assert (usual[list(EXPRESSION_COLUMNS)].to_numpy() == other[list(EXPRESSION_COLUMNS[::-1])].to_numpy()).all()
    assert (usual[list(ACTION_UNITS)].to_numpy() == other[list(ACTION_UNITS[::-1])].to_numpy()).all()
    assert other.expression.tolist() == [EXPRESSIONS[::-1][EXPRESSIONS.index(name)] for name in usual.expression]


def test_a_class_that_the_bundle_does_not_know_is_null(arithmetic_model, make_faces) -> None:
    model = arithmetic_model(tasks=("expr",), expr=EXPRESSIONS[1:])
    model.weights["expr"] = model.weights["expr"][:, :7]
    table = rows(model, make_faces({0: list(range(10))}, 10))
    assert [table[name].null_count for name in EXPRESSION_COLUMNS] == [10, *[0] * 7]
    assert "neutral" not in table["expression"].to_pylist()


@pytest.mark.parametrize("outputs", [{"expr": EXPRESSIONS[:7]}, {"au": ACTION_UNITS[1:]}])
def test_a_model_with_more_values_than_named_outputs_is_refused(arithmetic_model, make_faces, outputs: dict) -> None:
    model = arithmetic_model(tasks=("va", *outputs), **outputs)
    with pytest.raises(MienError, match=rf"names {len(*outputs.values())} outputs of {next(iter(outputs))}"):
        rows(model, make_faces({0: list(range(10))}, 10))


def test_a_video_without_any_face_has_a_row_for_every_frame(arithmetic_model, make_faces) -> None:
    table = rows(arithmetic_model(), make_faces({}, 1000))
    assert table["frame_index"].to_pylist() == list(range(1000))
    assert set(table["face_status"].to_pylist()) == {"no_face"}


def test_a_video_without_frames_has_no_rows(arithmetic_model) -> None:
    assert rows(arithmetic_model(), iter([])).num_rows == 0


def test_a_time_stamp_hours_ahead_makes_no_empty_windows(arithmetic_model, make_faces) -> None:
    model = arithmetic_model()
    batches = list(make_faces({0: list(range(100))}, 100, size=100))
    batches[0].time_s[50:] += 86_400
    table = rows(model, iter(batches))
    assert sum(model.calls) == 2
    assert table["time_s"].to_pylist() == batches[0].time_s.tolist()


@pytest.mark.parametrize(
    "heads", [windowing(), {"va": windowing(), "expr": None, "au": windowing(window=50, stride=50)}]
)
def test_rows_leave_when_their_windows_are_done_not_at_the_end(arithmetic_model, make_faces, heads) -> None:
    """A long track, and short ones beside it: never more than a window, a batch and the tracker's gap are held."""
    drawn = 0

    def source():
        nonlocal drawn
        for batch in make_faces({0: list(range(6000)), 1: list(range(100, 200)), 2: [4000]}, 6000):
            drawn = int(batch.frame_index[-1]) + 1
            yield batch

    for table in scores(source(), arithmetic_model(heads), VIDEO, ScoreOptions(table_rows=1)):
        assert drawn - table["frame_index"][-1].as_py() <= 2 * 300 + 2 * 64


def test_crops_are_let_go_when_they_are_encoded(arithmetic_model, make_faces) -> None:
    alive: list[weakref.ref] = []

    def source():
        for batch in make_faces({0: list(range(600))}, 600, size=16):
            batch = replace(batch, crops=batch.crops.copy())
            alive.append(weakref.ref(batch.crops))
            yield batch
            del batch
            # What waits for a full batch of 64, and the batches that were just passed on.
            assert sum(crops() is not None for crops in alive) <= 64 // 16 + 2

    rows(arithmetic_model(), source())


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_model_that_gives_no_number_stops_the_job_and_says_so(arithmetic_model, make_faces, broken: float) -> None:
    model = arithmetic_model()
    model.weights["va"][:] = broken
    with np.errstate(all="ignore"), pytest.raises(MienError, match=r"not a finite number for /clips/a\.mp4"):
        rows(model, make_faces({0: [0]}, 3))
