"""FERV39k's lists of clips."""

from __future__ import annotations

import pytest
from labelled import labels, picture, text

from common.errors import UsageError

WORDS = {
    "Happy": "happiness",
    "Sad": "sadness",
    "Neutral": "neutral",
    "Angry": "anger",
    "Surprise": "surprise",
    "Disgust": "disgust",
    "Fear": "fear",
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "4_setups" / "All_scenes"
    text(folder / "train_All.csv", *(f"Action/{word}/0001 {word}" for word in WORDS))
    text(folder / "test_All.csv", "Crime/Happy/0001 Happy")
    return tmp_path


def test_words_become_names_and_clips_of_one_number_stay_apart(root):
    rows, tally = labels("ferv39k", root)
    assert {row["clip"]: (row["expression"], row["split_expr"]) for row in rows} == {
        f"Action/{word}/0001": (name, "train") for word, name in WORDS.items()
    } | {"Crime/Happy/0001": ("happiness", "validation")}
    assert (tally.annotations, tally.dropped) == (8, {})


def test_a_clip_in_both_lists_is_only_tested(root):
    text(root / "4_setups/All_scenes/test_All.csv", "Action/Sad/0001 Sad")
    rows, tally = labels("ferv39k", root)
    assert [row["split_expr"] for row in rows if row["clip"] == "Action/Sad/0001"] == ["validation"]
    assert tally.dropped == {"a repetition of the same picture or clip": 1}


def test_a_path_that_names_another_expression_is_dropped(root):
    text(root / "4_setups/All_scenes/test_All.csv", "Crime/Happy/0001 Fear")
    _, tally = labels("ferv39k", root)
    assert tally.dropped == {"its path names another expression than its label": 1}


def test_labels_of_missing_clips_are_dropped(root):
    picture(root / "2_ClipsforFaceCrop/Action/Sad/0001/0.jpg")
    rows, tally = labels("ferv39k", root)
    assert [row["clip"] for row in rows] == ["Action/Sad/0001"]
    assert tally.dropped == {"its picture or clip is missing": 7}


@pytest.mark.parametrize(
    ("bad", "said"),
    [("Crime/Happy/0001,Happy", "expected 2 columns"), ("Crime/Joy/0001 Joy", "'Joy' is no class of this dataset")],
)
def test_a_bad_line_is_named(root, bad, said):
    text(root / "4_setups/All_scenes/test_All.csv", "Crime/Happy/0001 Happy", bad)
    with pytest.raises(UsageError, match=r"test_All\.csv, line 2: " + said):
        labels("ferv39k", root)
