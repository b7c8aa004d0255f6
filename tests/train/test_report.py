"""Labelled frames without a face, and what is reported of predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake.layout import Lake
from common.tasks import TASKS
from train import metrics, recipe
from train.data import faces as faces_
from train.data.crops import CropReader
from train.data.faceless import Faceless, fill
from train.data.faces import FaceSet
from train.data.sources import DataOptions
from train.report import report, tuned


def without_face(frames: list[float], tracks: list[int], task: str = "va") -> Faceless:
    labels = {"va": np.full((len(frames), 2), 0.5, np.float32), "expr": np.zeros(len(frames), int)}
    return Faceless(
        np.array(tracks, np.int32), np.array(tracks, np.int32), np.array(frames, float), {task: labels[task]}
    )


def test_a_frame_without_a_face_is_interpolated_and_keeps_the_last_value_at_both_ends() -> None:
    predictions = np.array([[0.0, 1.0], [0.4, 0.0], [9.0, 9.0]])
    found = fill("va", without_face([0, 3, 4, 8, 99], [7] * 5), predictions, np.array([7, 7, 5]), np.array([2, 6, 4]))
    np.testing.assert_allclose(found.predictions[:, 0], [0, 0.1, 0.2, 0.4, 0.4])
    np.testing.assert_allclose(found.predictions[:, 1], [1, 0.75, 0.5, 0, 0])
    assert found.left_out == 0


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), st.integers(0, 35))
def test_a_class_is_that_of_the_nearest_frame_and_of_two_the_earlier_one(known: list[int], at: int) -> None:
    predictions = np.array(known, float)[:, None]  # each frame predicts its own number
    annotation, frames = np.full(len(known), 3), np.array(known)
    found = fill("expr", without_face([at], [3], "expr"), predictions, annotation, frames)
    assert found.predictions[0, 0] == min(sorted(known), key=lambda frame: abs(frame - at))


def test_a_track_without_a_face_and_a_clip_without_one_get_no_prediction() -> None:
    frames = without_face([0, 1, np.nan], [4, 5, 4])
    found = fill("va", frames, np.ones((1, 2)), np.array([4]), np.array([9]))
    assert found.predictions.tolist() == [[1, 1]]
    assert found.video.tolist() == [4]
    assert found.left_out == 2


@pytest.fixture
def reader(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> CropReader:
    """Videos a and b of five frames validate: a has no face in frame 2, and both a sixth label. c is not there."""
    crop = crop_jpeg(np.full((32, 32, 3), 90, np.uint8))

    def rows(without: int) -> list[dict]:
        return [
            {"frame_index": n} if n == without else {"frame_index": n, "track_id": 0, "crop": crop} for n in range(5)
        ]

    def labels(name: str, split: str) -> object:
        rng = np.random.default_rng(len(name) + ord(name[0]))
        columns: dict[str, list] = {
            "valence": rng.uniform(-1, 1, 6).tolist(),
            "arousal": rng.uniform(-1, 1, 6).tolist(),
        }
        columns["expression"] = [EXPRESSIONS[k] for k in (0, 1, 2, 2, 1, 0)]
        columns |= {unit: rng.integers(0, 2, 6).tolist() if unit != "au26" else [0] * 6 for unit in ACTION_UNITS}
        return make_labels(name, 6, split, **columns)

    made = {"a": make_faces("a", rows(2)), "b": make_faces("b", rows(-1)), "t": make_faces("t", rows(1))}
    held_out = [labels(name, "validation") for name in "abc"]
    lake = make_lake(tmp_path, made, [*held_out, labels("t", "train")])
    preprocess = recipe.load("demo").preprocess.model_copy(update={"crop": (0, 0, 32), "size": 16})
    return CropReader(Lake(str(lake)), preprocess, 32)


@pytest.fixture
def gaps(reader: CropReader) -> FaceSet:
    return faces_.read(reader, DataOptions())


def values(faces: FaceSet) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random((len(faces), len(task.known))) for name, task in TASKS.items()}


def test_both_policies_for_labelled_frames_without_a_face_are_reported_side_by_side(gaps: FaceSet) -> None:
    predicted = values(gaps)
    found = report(predicted, gaps, {})
    assert found["frames"] == dict.fromkeys(TASKS, 9)
    assert found["frames_all_labelled"] == dict.fromkeys(TASKS, 12)
    assert found["frames_left_out"] == dict.fromkeys(TASKS, 6)  # of c
    assert found["videos"] == dict.fromkeys(TASKS, 2)
    a, b = gaps.video == 0, gaps.video == 1
    valence, truth = predicted["va"][:, 0], gaps.labels["va"][:, 0]
    assert found["ccc_valence"] == pytest.approx(metrics.ccc(valence[a | b], truth[a | b]))
    missed = gaps.faceless.labels["va"][:, 0]  # frames 2 and 5 of a, frame 5 of b, then those of c
    assert gaps.faceless.frame_index[:3].tolist() == [2, 5, 5]
    known = valence[a]  # of frames 0, 1, 3, 4
    filled = [(known[1] + known[2]) / 2, known[3], valence[b][4]]
    expected = metrics.ccc([*valence[a | b], *filled], [*truth[a | b], *missed[:3]])
    assert found["all_labelled"]["ccc_valence"] == pytest.approx(expected)
    probabilities = np.concatenate([predicted["expr"][a | b], predicted["expr"][a][[1, 3]], predicted["expr"][b][[4]]])
    labels = np.concatenate([gaps.labels["expr"][a | b], gaps.faceless.labels["expr"][:3]])
    expected = metrics.expression_f1(probabilities.argmax(1), labels)
    assert found["all_labelled"]["f1_expression"] == pytest.approx(expected)
    assert set(found["all_labelled"]) == {"ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units"}


def test_labels_of_videos_that_are_not_chosen_count_in_neither_policy(reader: CropReader) -> None:
    faces = faces_.read(reader, DataOptions(validation="b"))
    found = report(values(faces), faces, {})
    assert found["frames"] == dict.fromkeys(TASKS, 5)
    assert found["frames_all_labelled"] == dict.fromkeys(TASKS, 6)
    assert found["frames_left_out"] == dict.fromkeys(TASKS, 0)


def test_means_over_videos_and_intervals_stand_beside_the_pooled_metrics(gaps: FaceSet) -> None:
    predicted = values(gaps)
    found = report(predicted, gaps, {})
    each = [metrics.ccc(predicted["va"][gaps.video == n, 1], gaps.labels["va"][gaps.video == n, 1]) for n in range(2)]
    assert found["per_video"]["ccc_arousal"] == pytest.approx(np.mean(each))
    low, high = found["interval_95"]["per_video_ccc_arousal"]
    assert [low, high] == pytest.approx(sorted(each))  # one of four draws holds the one video twice
    for name in ("ccc_valence", "f1_expression", "f1_action_units"):
        low, high = found["interval_95"][name]
        assert low <= found[name] <= high


def test_action_units_are_measured_at_one_half_and_at_the_thresholds_tuned_on_validation(gaps: FaceSet) -> None:
    predicted = values(gaps)
    thresholds = tuned(predicted, gaps, {name: task.outputs for name, task in TASKS.items()})
    assert set(thresholds) == {"au"}
    assert set(thresholds["au"]) == set(ACTION_UNITS)
    found = report(predicted, gaps, thresholds)
    assert found["f1_action_units_tuned"] > found["f1_action_units"]
    assert "f1_action_units_tuned" not in report(predicted, gaps, {})
    assert thresholds["au"]["au26"] == 0.5  # no label has it


def test_classes_that_no_validation_label_has_are_named(gaps: FaceSet) -> None:
    found = report(values(gaps), gaps, {})
    assert found["absent"] == {"expr": list(EXPRESSIONS[3:]), "au": ["au26"]}
    assert found["f1_au26"] == 0


def test_a_label_after_the_last_frame_is_left_and_more_of_them_are_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make_lake: Callable,
    make_faces: Callable,
    make_labels: Callable,
    crop_jpeg: Callable,
) -> None:
    crop = crop_jpeg(np.full((32, 32, 3), 90, np.uint8))
    face = [{"frame_index": n, "track_id": 0, "crop": crop} for n in range(3)]
    third = [{"frame_index": 3 * n, "track_id": 0, "crop": crop} for n in range(3)]
    made = {
        "same": make_faces("same", face),
        "one_more": make_faces("one_more", face),
        "longer": make_faces("longer", [*face, {"frame_index": 3}]),
        "every_third": make_faces("every_third", third),
    }
    frames = {"same": 3, "one_more": 4, "longer": 6, "every_third": 9}
    labels = [make_labels(name, count, "train", expression=["fear"] * count) for name, count in frames.items()]
    lake = make_lake(tmp_path, made, labels)
    preprocess = recipe.load("demo").preprocess.model_copy(update={"crop": (0, 0, 32), "size": 16})
    faces = faces_.read(CropReader(Lake(str(lake)), preprocess, 32), DataOptions())
    assert faces.join.joined == 12
    (told,) = [record.msg for record in caplog.records if "after the last frame" in str(record.msg)]
    assert told["frames"] == {"longer": "6 labelled, 4 in the video"}
