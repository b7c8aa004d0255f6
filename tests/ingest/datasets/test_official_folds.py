"""DFEW and MAFW: clips in five official folds, from the lists of their publishers."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled import clip, labels, picture, text

from common.errors import UsageError

DFEW = ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]
MAFW = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
MAFW += ["contempt", "anxiety", "helplessness", "disappointment"]


def dfew(root: Path, part: str, number: int, *rows: str, kind: str = "single-labeled") -> Path:
    return text(root / "EmoLabel_DataSplit" / f"{part}({kind})" / f"set_{number}.csv", "video_name,label", *rows)


def mafw(root: Path, part: str, number: int, *rows: str) -> Path:
    return text(root / "Train & Test Set" / "single" / "no_caption" / f"set_{number}" / f"{part}.txt", *rows)


@pytest.fixture
def films(tmp_path):
    """DFEW with clip n in the test list of set n, and clips 6 and 7 in that of set 1; label n everywhere."""
    tests = {1: [1, 6, 7], 2: [2], 3: [3], 4: [4], 5: [5]}
    for number, tested in tests.items():
        dfew(tmp_path, "test", number, *(f"{n},{n}" for n in tested))
        dfew(tmp_path, "train", number, *(f"{n},{n}" for n in range(1, 8) if n not in tested))
    return tmp_path


@pytest.fixture
def series(tmp_path):
    """MAFW with a clip of each class, dealt to the five test lists in turn."""
    for number in range(1, 6):
        lists = {"test": [], "train": []}
        for n, name in enumerate(MAFW):
            lists["test" if n % 5 + 1 == number else "train"].append(f"{n:05d}.mp4 {name}")
        for part, rows in lists.items():
            mafw(tmp_path, part, number, *rows)
    return tmp_path


def test_dfew_numbers_from_one_become_names_of_whole_clips(films):
    rows, tally = labels("dfew", films)
    assert {row["clip"]: row["expression"] for row in rows} == {f"{n:05d}": DFEW[n - 1] for n in range(1, 8)}
    assert all(row["frame_index"] is None and row["video"] == row["base_video"] == row["clip"] for row in rows)
    assert (tally.annotations, tally.dropped) == (7, {})


def test_a_fold_is_the_set_that_tests_the_clip_and_the_split_is_that_of_the_first_set(films):
    rows, _ = labels("dfew", films)
    assert [row["fold"] for row in rows] == [0, 1, 2, 3, 4, 0, 0]
    assert [row["split_expr"] for row in rows] == ["validation", *["train"] * 4, "validation", "validation"]
    assert all(row["split_va"] is None and row["split_au"] is None for row in rows)


def test_both_spellings_of_the_folder_are_read(films):
    for part in ("train", "test"):
        folder = films / "EmoLabel_DataSplit" / f"{part}(single-labeled)"
        folder.rename(folder.with_name(f"{part}(single_labeled)"))
    assert len(labels("dfew", films)[0]) == 7


def test_mafw_has_eleven_classes_by_name(series):
    rows, tally = labels("mafw", series)
    assert [(row["clip"], row["expression"], row["fold"]) for row in rows] == [
        (f"{n:05d}", name, n % 5) for n, name in enumerate(MAFW)
    ]
    assert (tally.annotations, tally.dropped) == (11, {})


def test_a_clip_without_a_single_label_and_one_that_no_set_tests_are_dropped_and_counted(films):
    dfew(films, "test", 2, "2,2", "8,0")
    dfew(films, "train", 2, "9,1", "1,1")
    dfew(films, "train", 3, "9,1")
    rows, tally = labels("dfew", films)
    assert len(rows) == 7
    assert tally.annotations == 9
    assert tally.dropped == {"it has no single expression": 1, "it is in no test list": 1}
    assert tally.first["it has no single expression"].endswith("set_2.csv, line 3: 00008")


def test_labels_of_clips_that_are_missing_are_dropped_where_there_are_clips(films):
    for n in (1, 2):
        picture(films / "Clip" / "clip_224x224" / f"{n:05d}" / f"{n:05d}_1.jpg")
    clip(films / "Clip" / "original" / "00003.mp4", [(0, 0, 0)])
    rows, tally = labels("dfew", films)
    assert [row["clip"] for row in rows] == ["00001", "00002", "00003"]
    assert tally.dropped == {"its picture or clip is missing": 4}


def test_a_clip_in_two_test_lists_is_refused(films):
    dfew(films, "test", 5, "5,5", "3,3")
    with pytest.raises(UsageError, match=r"set_5\.csv, line 3: 00003 is in the test list of set_3 as well"):
        labels("dfew", films)


def test_a_clip_that_a_set_trains_on_and_tests_on_is_refused(series):
    mafw(series, "train", 2, "00001.mp4 disgust")
    with pytest.raises(UsageError, match=r"train\.txt, line 1: 00001 is in the test list of set_2 as well"):
        labels("mafw", series)


@pytest.mark.parametrize(
    ("bad", "said"),
    [("8,8", "'8' is no class of this dataset, which has 1 .happiness."), ("8", "expected 2 columns"), ("8,", "''")],
)
def test_a_bad_line_of_dfew_is_named(films, bad, said):
    dfew(films, "test", 4, "4,4", bad)
    with pytest.raises(UsageError, match=r"set_4\.csv, line 3: .*" + said):
        labels("dfew", films)


@pytest.mark.parametrize(
    ("bad", "said"), [("00020.mp4 other", "'other' is no class"), ("00020.mp4 sad very", "found 3")]
)
def test_a_bad_line_of_mafw_is_named(series, bad, said):
    mafw(series, "test", 3, bad)
    with pytest.raises(UsageError, match=r"test\.txt, line 1: .*" + said):
        labels("mafw", series)


def test_a_missing_list_is_named(series):
    (series / "Train & Test Set/single/no_caption/set_5/train.txt").unlink()
    with pytest.raises(UsageError, match=r"there is no .*set_5/train\.txt"):
        labels("mafw", series)
