"""Faces survive the `faces` table: numbers exactly, crops within what JPEG at quality 95 changes; rows of `scores`."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from common.commit.units import Video
from common.crops import Crop
from common.errors import MienError
from common.faces import FaceBatch, from_faces, to_faces, to_scores
from common.lake.schema import BOX_COLUMNS, FACES, LANDMARK_COLUMNS, SCORES
from ingest.align import Aligner

VIDEO = Video(uri="/archive/a b.mp4", version="1-2", size=1)
CROP = Aligner(Crop())(data.astronaut(), np.array([[[201, 107], [244, 107], [221, 132], [206, 152], [239, 152]]]))[0]


def batch(counts: list[int], size: int = 112, first: int = 5) -> FaceBatch:
    """Frames with so many faces each."""
    rng = np.random.default_rng(sum(counts))
    total = sum(counts)
    ids = [np.sort(rng.choice(50, count, replace=False)) for count in counts]
    return FaceBatch(
        frame_index=np.arange(first, first + len(counts), dtype=np.int32),
        time_s=np.arange(len(counts)) / 30 + 0.1,
        duration_s=rng.uniform(0, 1, len(counts)),
        row=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        track_id=np.concatenate([np.zeros(0, np.int32), *ids]).astype(np.int32),
        box=rng.normal(100, 50, (total, 4)).astype(np.float32),
        landmarks=rng.normal(100, 50, (total, 5, 2)).astype(np.float32),
        score=rng.uniform(0, 1, total).astype(np.float32),
        yaw=rng.uniform(-90, 90, total).astype(np.float32),
        sharpness=rng.uniform(0, 3000, total).astype(np.float32),
        status=rng.choice(["ok", "low_quality"], total),
        crops=np.stack([np.roll(CROP[:size, :size], i, 1) for i in range(total)] or [CROP])[:total],
    )


def check_same(a: FaceBatch, b: FaceBatch) -> None:
    for name in (field.name for field in fields(FaceBatch) if field.name != "crops"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert ours.dtype.kind == theirs.dtype.kind, name
        np.testing.assert_array_equal(ours, theirs, name)
    assert len(a.crops) == len(b.crops)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=12))
def test_everything_but_the_crops_comes_back_as_it_was(counts: list[int]) -> None:
    faces = batch(counts, size=16)
    table = to_faces(faces, VIDEO)
    assert table.schema.equals(FACES)
    table.validate(full=True)
    check_same(from_faces(table), faces)
    assert from_faces(table).frame_index.dtype == np.int32


def test_crops_come_back_within_what_jpeg_changes() -> None:
    faces = batch([1, 2])
    back = from_faces(to_faces(faces, VIDEO)).crops
    assert back.dtype == np.uint8
    assert peak_signal_noise_ratio(faces.crops, back) > 40  # 38 with the fast transform
    assert np.abs(faces.crops.astype(int) - back).mean() < 2
    colours = np.zeros((1, 112, 112, 3), np.uint8)
    colours[:, :, :56, 0], colours[:, :, 56:, 2] = 255, 255  # subsampled chroma would bleed across the edge
    one = FaceBatch(**{**vars(batch([1])), "crops": colours})
    assert np.abs(from_faces(to_faces(one, VIDEO)).crops.astype(int) - colours).max() <= 8


def test_rows_are_sorted_and_a_frame_without_a_face_has_one_of_nulls() -> None:
    table = to_faces(batch([2, 0, 1]), VIDEO)
    assert table["frame_index"].to_pylist() == [5, 5, 6, 7]
    tracks = table["track_id"].to_pylist()
    assert tracks[0] < tracks[1]
    assert table["face_status"].to_pylist()[2] == "no_face"
    nulls = ["track_id", "det_score", "yaw", "sharpness", *BOX_COLUMNS, *LANDMARK_COLUMNS, "crop"]
    for name in FACES.names:
        assert [value is None for value in table[name].to_pylist()] == [False, False, name in nulls, False], name
    assert set(table["video_id"].to_pylist()) == {VIDEO.video_id}
    assert set(table["uri"].to_pylist()) == {VIDEO.uri}
    assert set(table["video_name"].to_pylist()) == {"a b.mp4"}


def test_right_eye_is_the_persons_own_the_one_at_the_image_left() -> None:
    faces = batch([1])
    row = to_faces(faces, VIDEO).to_pylist()[0]
    assert (row["right_eye_x"], row["right_eye_y"]) == tuple(faces.landmarks[0, 0].tolist())
    assert (row["mouth_left_x"], row["mouth_left_y"]) == tuple(faces.landmarks[0, 4].tolist())


def test_a_table_in_several_chunks_and_of_no_rows_is_read() -> None:
    faces = batch([1, 0, 2, 1])
    table = to_faces(faces, VIDEO)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    check_same(from_faces(pieces), faces)
    assert len(from_faces(table.slice(0, 0))) == 0


def test_a_damaged_crop_is_a_sentence_that_names_the_frame() -> None:
    table = to_faces(batch([1, 1]), VIDEO)
    crops = table["crop"].to_pylist()
    broken = table.set_column(table.schema.get_field_index("crop"), FACES.field("crop"), [[crops[0], crops[1][:100]]])
    with pytest.raises(MienError, match=r"frame 6 of /archive/a b\.mp4"):
        from_faces(broken)


def test_rows_of_scores_are_those_of_faces_with_predictions_where_there_is_a_face() -> None:
    faces = batch([2, 0, 1], size=16)
    valence = np.array([0.5, -0.25, 1], np.float32)
    scores, stored = to_scores(faces, VIDEO, {"valence": valence}), to_faces(faces, VIDEO)
    assert scores.schema.equals(SCORES)
    shared = [name for name in SCORES.names if name in FACES.names]
    assert scores.select(shared).to_pylist() == stored.select(shared).to_pylist()
    assert scores["valence"].to_pylist() == [0.5, -0.25, None, 1]
    assert {name for name in SCORES.names if scores[name].null_count == 4} == {*SCORES.names} - {*shared, "valence"}


def test_the_expression_is_the_most_probable_of_the_classes_that_are_given() -> None:
    faces = batch([3, 0], size=16)
    given = {
        "expr_anger": np.array([0.2, 0.5, 0.1], np.float32),
        "expr_contempt": np.array([0.8, 0.3, 0.2], np.float32),
        "expr_neutral": np.array([0.0, 0.2, 0.7], np.float32),
    }
    table = to_scores(faces, VIDEO, given)
    assert table["expression"].to_pylist() == ["contempt", "anger", "neutral", None]
    assert table["expr_contempt"].to_pylist()[:3] == pytest.approx([0.8, 0.3, 0.2])
    assert table["expr_happiness"].null_count == 4


def test_a_batch_without_faces_or_without_frames_has_rows_for_its_frames_alone() -> None:
    assert to_scores(batch([0, 0], size=16), VIDEO, {})["face_status"].to_pylist() == ["no_face", "no_face"]
    assert len(to_scores(batch([], size=16), VIDEO, {"valence": np.zeros(0, np.float32)})) == 0
