"""Aff-Wild2's annotation files, as small trees written by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from common.errors import UsageError
from common.labels import ACTION_UNITS
from common.lake.schema import LABELS
from ingest.datasets import affwild2
from ingest.datasets.dataset import Tally, even_folds, fold

VA = "valence,arousal"
EXPR = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
AU = "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"


@pytest.fixture
def tree(tmp_path: Path):
    """Writes an annotation file: tree("VA_Estimation_Challenge/Train_Set/v", header, line, line, ...)."""

    def write(path: str, *lines: str, home: str = "6th_ABAW_Annotations") -> Path:
        file = tmp_path / home / f"{path}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


def rows(root: Path) -> list[dict]:
    return pa.concat_tables(affwild2.read(root, Tally())).to_pylist()


def test_the_three_tasks_of_a_video_become_one_row_a_frame_counted_from_zero(tree, tmp_path):
    tree("VA_Estimation_Challenge/Train_Set/10-60", VA, "0.5,-0.25", "-0.125,1")
    tree("EXPR_Recognition_Challenge/Validation_Set/10-60", EXPR, "4", "0")
    tree("AU_Detection_Challenge/Train_Set/10-60", AU, "1,0,0,0,0,0,1,0,0,0,0,1", "0,0,0,0,0,0,0,0,0,0,0,0")
    first, second = rows(tmp_path)
    assert (first["video"], first["base_video"], first["subject"]) == ("10-60", "10-60", None)
    assert (first["frame_index"], second["frame_index"]) == (0, 1)
    assert (first["valence"], first["arousal"], first["expression"]) == (0.5, -0.25, "happiness")
    assert [unit for unit in ACTION_UNITS if first[unit]] == ["au01", "au12", "au26"]
    assert (first["split_va"], first["split_expr"], first["split_au"]) == ("train", "validation", "train")
    assert (second["valence"], second["arousal"], second["expression"], second["au01"]) == (-0.125, 1.0, "neutral", 0)


def test_rows_have_the_published_schema(tree, tmp_path):
    tree("VA_Estimation_Challenge/Train_Set/v", VA, "0,0")
    (table,) = affwild2.read(tmp_path, Tally())
    assert table.schema.equals(LABELS, check_metadata=True)


def test_a_marked_frame_is_null_in_every_column_of_the_task_and_only_there(tree, tmp_path):
    tree("VA_Estimation_Challenge/Train_Set/v", VA, "-5,0.5", "0.5,-5", "-5,-5", "-1,-1")
    tree("EXPR_Recognition_Challenge/Train_Set/v", EXPR, "-1", "7", "-1", "1")
    tree(
        "AU_Detection_Challenge/Train_Set/v",
        AU,
        "1,1,1,1,1,1,1,1,1,1,1,-1",
        "-1," * 11 + "-1",
        "1," * 11 + "0",
        "0," * 11 + "1",
    )
    table = rows(tmp_path)
    assert [(row["valence"], row["arousal"]) for row in table] == [(None, None)] * 3 + [(-1.0, -1.0)]
    assert [row["expression"] for row in table] == [None, "other", None, "anger"]
    assert [row["au01"] for row in table] == [None, None, 1, 0]
    assert [row["au26"] for row in table] == [None, None, 0, 1]


@pytest.mark.parametrize("folder", ["EXPR_Classification_Challenge", "EXPR_Recognition_Challenge"])
@pytest.mark.parametrize("home", ["3rd_ABAW_Annotations", "8th_ABAW_Annotations"])
def test_both_names_of_the_expression_folder_and_every_edition_are_read(tree, tmp_path, folder, home):
    tree(f"{folder}/Train_Set/v", EXPR, "6", home=home)
    assert [row["expression"] for row in rows(tmp_path)] == ["surprise"]
    assert rows(tmp_path / home) == rows(tmp_path)


def test_a_task_that_does_not_list_the_video_leaves_its_columns_and_split_null(tree, tmp_path):
    tree("EXPR_Recognition_Challenge/Train_Set/v", EXPR, "6")
    (row,) = rows(tmp_path)
    assert row["split_va"] is row["split_au"] is row["valence"] is row["au04"] is None
    assert row["split_expr"] == "train"


def test_tasks_of_unequal_length_are_kept_to_the_longest(tree, tmp_path):
    tree("VA_Estimation_Challenge/Train_Set/v", VA, "0,0", "0.5,0.5", "0.25,0.25")
    tree("EXPR_Recognition_Challenge/Train_Set/v", EXPR, "1", "2")
    assert [(row["valence"], row["expression"]) for row in rows(tmp_path)] == [
        (0.0, "anger"),
        (0.5, "disgust"),
        (0.25, None),
    ]


def test_only_a_trailing_suffix_names_a_person(tree, tmp_path):
    for name in ("video2", "video2_left", "a_left_b", "x_right"):
        tree(f"VA_Estimation_Challenge/Train_Set/{name}", VA, "0,0")
    found = {row["video"]: (row["base_video"], row["subject"]) for row in rows(tmp_path)}
    assert found == {
        "video2": ("video2", None),
        "video2_left": ("video2", "left"),
        "a_left_b": ("a_left_b", None),
        "x_right": ("x", "right"),
    }


def test_the_people_of_a_video_share_a_fold_and_folds_1_to_4_are_of_equal_size(tree, tmp_path):
    for number in range(60):
        for suffix in ("_left", "_right"):
            tree(f"VA_Estimation_Challenge/Train_Set/video{number}{suffix}", VA, "0,0")
    folds: dict[str, set[int]] = {}
    for row in rows(tmp_path):
        folds.setdefault(row["base_video"], set()).add(row["fold"])
    assert all(len(each) == 1 for each in folds.values())
    assert [sum(each == {number} for each in folds.values()) for number in (1, 2, 3, 4)] == [15] * 4


def test_a_fold_never_changes():
    names = ("video1", "10-60-1280x720", "astronaut_000")
    # Worked out with sha256sum: 1 more than the 16th hex digit (9, d, 4), modulo 4.
    assert [fold(name) for name in names] == [2, 2, 1]
    # Their hashes begin with 8, c and f.
    assert even_folds(names[::-1]) == {"video1": 1, "10-60-1280x720": 2, "astronaut_000": 3}


def test_hidden_files_of_macos_are_ignored_and_windows_line_ends_are_read(tree, tmp_path):
    file = tree("VA_Estimation_Challenge/Train_Set/v", VA)
    file.write_bytes(b"valence, arousal\r\n0.5, 0.25\r\n\r\n")
    (file.parent / ".DS_Store").write_bytes(b"\0\1\2")
    (file.parent / "._v.txt").write_bytes(b"\0\1\2")
    assert [(row["valence"], row["arousal"]) for row in rows(tmp_path)] == [(0.5, 0.25)]


def test_videos_come_by_name(tree, tmp_path):
    for name in ("b", "a", "c"):
        tree(f"VA_Estimation_Challenge/Train_Set/{name}", VA, "0,0")
    assert [row["video"] for row in rows(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "header", "line"),
    [
        ("VA_Estimation_Challenge", VA, "0.5"),
        ("VA_Estimation_Challenge", VA, "0.5,0.5,0.5"),
        ("VA_Estimation_Challenge", VA, "0.5,high"),
        ("VA_Estimation_Challenge", VA, ""),
        ("VA_Estimation_Challenge", VA, "1.5,0"),
        ("VA_Estimation_Challenge", VA, "nan,0"),
        ("EXPR_Recognition_Challenge", EXPR, "8"),
        ("EXPR_Recognition_Challenge", EXPR, "1.5"),
        ("AU_Detection_Challenge", AU, "1,0,0"),
        ("AU_Detection_Challenge", AU, "2," * 11 + "0"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tree, tmp_path, task, header, line):
    good = {VA: "0,0", EXPR: "0", AU: "0," * 11 + "0"}[header]
    file = tree(f"{task}/Train_Set/v", header, good, line, good)
    with pytest.raises(UsageError) as error:
        rows(tmp_path)
    assert str(file) in str(error.value)
    assert "line 3" in str(error.value)


@pytest.mark.parametrize(("task", "line"), [("VA_Estimation_Challenge", "0.5,0"), ("EXPR_Recognition_Challenge", "7")])
def test_a_file_without_its_header_is_refused_not_shifted_by_a_frame(tree, tmp_path, task, line):
    tree(f"{task}/Train_Set/v", line, line)
    with pytest.raises(UsageError, match=r"v\.txt, line 1"):
        rows(tmp_path)


def test_a_file_that_is_not_text_is_named(tree, tmp_path):
    file = tree("VA_Estimation_Challenge/Train_Set/v", VA)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"v\.txt"):
        rows(tmp_path)


def test_a_video_in_both_splits_of_a_task_is_refused(tree, tmp_path):
    for split in ("Train_Set", "Validation_Set"):
        tree(f"VA_Estimation_Challenge/{split}/v", VA, "0,0")
    with pytest.raises(UsageError, match="keep one of them"):
        rows(tmp_path)


def test_a_folder_without_annotations_says_what_was_expected(tmp_path):
    with pytest.raises(UsageError, match="ABAW_Annotations"):
        rows(tmp_path)
