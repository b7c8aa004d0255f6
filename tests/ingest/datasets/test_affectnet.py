"""AffectNet's two releases, built on disk with their quirks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled import labels, picture, text

from common.errors import UsageError

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
ORDER = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
LISTS = "Manually_Annotated_file_lists"


def line(name: str, expression: int, valence: object = -0.5, arousal: object = 0.25) -> str:
    return f"{name},10,20,200,201,30.5;40.25;50;60,{expression},{valence},{arousal}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Column names in training.csv, none in validation.csv, as some copies have it."""
    text(tmp_path / LISTS / "training.csv", HEADER, *(line(f"{n}/t{n}.jpg", n) for n in range(8)))
    text(tmp_path / LISTS / "validation.csv", line("7/v.png", 1, 1, -1))
    return tmp_path


def npy(root: Path, part: str, number: int, expression: object, valence: object, arousal: object) -> Path:
    folder = root / part / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, value in {"exp": expression, "val": valence, "aro": arousal, "lnd": np.zeros(136)}.items():
        np.save(folder / f"{number}_{kind}.npy", np.array(value))
    return folder / f"{number}_exp.npy"


def test_each_number_becomes_its_class_and_both_lists_their_split(root):
    rows, tally = labels("affectnet", root)
    found = {row["video"]: row["expression"] for row in rows if row["split_expr"] == "train"}
    assert found == {f"{n}/t{n}": name for n, name in enumerate(ORDER)}
    (held,) = [row for row in rows if row["split_expr"] == "validation"]
    assert (held["base_video"], held["expression"], held["valence"], held["arousal"]) == ("7/v", "happiness", 1, -1)
    assert all(row["split_va"] == row["split_expr"] and row["split_au"] is None for row in rows)
    assert all(row["frame_index"] == 0 and row["clip"] is None for row in rows)
    assert (tally.annotations, tally.dropped) == (9, {})


def test_column_names_in_another_order_are_heeded(root):
    text(
        root / LISTS / "validation.csv",
        "expression,subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,arousal,valence",
        "4,7/v.png,1,2,3,4,5;6,0.5,-0.25",
    )
    (row,) = [row for row in labels("affectnet", root)[0] if row["split_expr"] == "validation"]
    assert (row["expression"], row["valence"], row["arousal"]) == ("fear", -0.25, 0.5)


def test_pictures_without_a_class_are_dropped_by_reason_unless_valence_and_arousal_are_known(root):
    text(
        root / LISTS / "validation.csv",
        line("1/none.jpg", 8, 0.125, 0.5),
        line("1/uncertain.jpg", 9, -2, -2),
        line("1/noface.jpg", 10, -2, -2),
        line("1/noface2.jpg", 10, -2, -2),
        line("1/happy.jpg", 1, -2, -2),
    )
    rows, tally = labels("affectnet", root)
    held = [row for row in rows if row["split_expr"] == "validation"]
    assert [(row["video"], row["expression"], row["valence"]) for row in held] == [
        ("1/happy", "happiness", None),
        ("1/none", None, 0.125),
    ]
    assert tally.annotations == 13
    assert tally.dropped == {
        "its expression is 'uncertain', and it has no valence and arousal": 1,
        "its expression is 'no face', and it has no valence and arousal": 2,
    }
    assert list(tally.first.values())[1].endswith("validation.csv, line 3")


def test_a_picture_listed_twice_stays_once_if_its_labels_agree_and_in_the_split_that_is_held_out(root):
    text(
        root / LISTS / "validation.csv",
        line("0/t0.jpg", 0),
        line("1/t1.jpg", 3),
        line("9/v.jpg", 2),
        line("9/v.jpg", 2),
    )
    rows, tally = labels("affectnet", root)
    assert {row["video"]: row["split_expr"] for row in rows if row["video"][0] in "019"} == {
        "0/t0": "validation",
        "9/v": "validation",
    }
    assert tally.dropped == {
        "a repetition of the same picture or clip": 2,
        "the same picture or clip has another label elsewhere": 2,
    }
    assert len(rows) == tally.annotations - 4


def test_the_second_release_counts_each_set_from_zero(tmp_path):
    npy(tmp_path, "train_set", 0, "6", "-0.5", "0.75")
    npy(tmp_path, "train_set", 10, 7, 0.25, 0.5)
    npy(tmp_path, "val_set", 0, "1", "-2.0", "-2.0")
    rows, tally = labels("affectnet", tmp_path)
    assert [(row["video"], row["expression"], row["valence"], row["arousal"], row["split_va"]) for row in rows] == [
        ("train_set/images/0", "anger", -0.5, 0.75, "train"),
        ("train_set/images/10", "contempt", 0.25, 0.5, "train"),
        ("val_set/images/0", "happiness", None, None, "validation"),
    ]
    assert (tally.annotations, tally.dropped) == (3, {})


def test_labels_of_missing_pictures_are_dropped_once_there_are_pictures(root):
    for name in ("0/t0.jpg", "1/t1.JPG", "7/v.png"):
        picture(root / "Manually_Annotated_Images" / name)
    rows, tally = labels("affectnet", root)
    assert [row["video"] for row in rows] == ["0/t0", "1/t1", "7/v"]
    assert tally.dropped == {"its picture or clip is missing": 6}
    assert tally.first["its picture or clip is missing"].endswith("training.csv, line 4: 2/t2")


def test_pictures_of_the_second_release_are_found_in_their_own_set(tmp_path):
    npy(tmp_path, "train_set", 0, 1, 0, 0)
    npy(tmp_path, "val_set", 0, 1, 0, 0)
    picture(tmp_path / "val_set" / "images" / "0.jpg")
    rows, tally = labels("affectnet", tmp_path)
    assert [row["video"] for row in rows] == ["val_set/images/0"]
    assert tally.dropped == {"its picture or clip is missing": 1}


def test_if_every_picture_is_missing_the_unpacked_folder_is_the_wrong_one(root):
    picture(root / "Manually_Annotated_Images" / "1" / "other.jpg")
    with pytest.raises(UsageError, match=r"none of the 9 labelled pictures .*Manually_Annotated_Images.*0/t0"):
        labels("affectnet", root)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("1/a.jpg,1,2,3,4,5;6,0,0.5", "expected 9 columns"),
        (line("a.jpg", 1), "expected folder/picture, found 'a.jpg'"),
        (line("/1/a.jpg", 1), "expected folder/picture"),
        (line("1/a.jpg", 11), "'11' is no class of this dataset, which has 0 .neutral."),
        (line("1/a.jpg", 1, 1.5, 0), "valence 1.5"),
        (line("1/a.jpg", 1, "high", 0), "expected a number, found 'high'"),
        (line("1/a.jpg", 1, "nan", 0), "expected a number"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(root, bad, said):
    file = text(root / LISTS / "training.csv", HEADER, line("0/a.jpg", 0), bad)
    with pytest.raises(UsageError, match=said) as error:
        labels("affectnet", root)
    assert f"{file}, line 3: " in str(error.value)


def test_a_missing_list_is_named(root):
    (root / LISTS / "validation.csv").unlink()
    with pytest.raises(UsageError, match=r"there is no .*validation\.csv: `mien label"):
        labels("affectnet", root)


def test_a_folder_with_neither_release_says_what_was_expected(tmp_path):
    with pytest.raises(UsageError, match=r"no annotations of AffectNet .*training\.csv or train_set"):
        labels("affectnet", tmp_path)


def test_a_value_file_that_is_damaged_or_missing_or_holds_objects_is_named_and_not_unpickled(tmp_path):
    npy(tmp_path, "train_set", 0, 1, 0, 0)
    npy(tmp_path, "val_set", 3, 1, 0, 0)
    file = tmp_path / "val_set" / "annotations" / "3_val.npy"
    np.save(file, np.array({"a": 1}, object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"3_val\.npy cannot be read as one value"):
        labels("affectnet", tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=r"3_val\.npy cannot be read as one value"):
        labels("affectnet", tmp_path)
    file.unlink()
    with pytest.raises(UsageError, match=r"3_val\.npy cannot be read as one value"):
        labels("affectnet", tmp_path)
