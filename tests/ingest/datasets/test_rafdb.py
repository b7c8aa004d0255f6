"""RAF-DB's list of basic expressions."""

from __future__ import annotations

import pytest
from labelled import labels, picture, text

from common.errors import UsageError

LIST = "basic/EmoLabel/list_patition_label.txt"
ORDER = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]


@pytest.fixture
def root(tmp_path):
    text(tmp_path / LIST, *(f"train_{n:05d}.jpg {n}" for n in range(1, 8)), "test_0001.jpg 4")
    return tmp_path


def test_numbers_from_one_become_names_and_the_prefix_is_the_split(root):
    rows, tally = labels("rafdb", root)
    found = {row["video"]: (row["expression"], row["split_expr"]) for row in rows}
    assert found == {f"train_{n:05d}_aligned": (name, "train") for n, name in enumerate(ORDER, 1)} | {
        "test_0001_aligned": ("happiness", "validation")
    }
    assert all(row["split_va"] is None and row["valence"] is None for row in rows)
    assert (tally.annotations, tally.dropped) == (8, {})


def test_the_folder_basic_may_be_the_root_itself(root):
    assert labels("rafdb", root / "basic") == labels("rafdb", root)


def test_a_label_of_an_aligned_picture_that_is_missing_is_dropped(root):
    for n in range(1, 8):
        picture(root / "basic/Image/aligned" / f"train_{n:05d}_aligned.jpg")
    rows, tally = labels("rafdb", root)
    assert len(rows) == 7
    assert tally.dropped == {"its picture or clip is missing": 1}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("train_00002.jpg", "expected 2 columns .picture, label., found 1"),
        ("train_00002.jpg 5 6", "found 3"),
        ("train_00002.jpg 0", "'0' is no class of this dataset, which has 1 .surprise., 2 .fear."),
        ("valid_00002.jpg 1", "begins with neither train_ nor test_"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(root, bad, said):
    text(root / LIST, "train_00001.jpg 1", "", bad)
    with pytest.raises(UsageError, match=r"list_patition_label\.txt, line 3: .*" + said):
        labels("rafdb", root)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*list_patition_label\.txt"):
        labels("rafdb", tmp_path)
