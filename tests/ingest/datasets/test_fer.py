"""FER2013 and FER+, which labels the same rows anew."""

from __future__ import annotations

import numpy as np
import pytest
from labelled import labels, text

from common.errors import UsageError
from ingest.datasets import fer2013

PLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def grey(level: int, last: int = 0) -> str:
    """A picture of one brightness, but for its last pixel."""
    return " ".join([str(level)] * (48 * 48 - 1) + [str(last)])


@pytest.fixture
def rows_of(tmp_path):
    """Writes fer2013.csv from (emotion, brightness, usage)."""

    def write(*rows: tuple[object, int, str]):
        lines = (f"{emotion},{grey(level)},{usage}" for emotion, level, usage in rows)
        text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", *lines)
        return tmp_path

    return write


@pytest.fixture
def voted(tmp_path, rows_of):
    """Writes both files from (brightness, usage, votes in the order of the columns)."""

    def write(*rows: tuple[int, str, str]):
        rows_of(*((0, level, usage) for level, usage, _ in rows))
        lines = [
            f"{usage},{'' if votes.endswith(',10') else f'fer{n:07d}.png'},{votes}"
            for n, (_, usage, votes) in enumerate(rows)
        ]
        text(tmp_path / "fer2013new.csv", PLUS, *lines)
        return tmp_path

    return write


def test_fer2013_numbers_become_names_and_usages_splits(rows_of):
    order = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    usages = ["Training"] * 5 + ["PublicTest", "PrivateTest"]
    rows, tally = labels("fer2013", rows_of(*((n, n, usages[n]) for n in range(7))))
    assert [row["expression"] for row in rows] == order
    assert [row["video"] for row in rows] == [f"fer000000{n}" for n in range(7)]
    assert [row["split_expr"] for row in rows] == ["train"] * 5 + ["validation", "test"]
    assert (tally.annotations, tally.dropped) == (7, {})


def test_a_picture_that_is_there_twice_is_one_picture_in_the_split_that_is_held_out(rows_of):
    root = rows_of(
        (3, 50, "Training"), (4, 60, "Training"), (3, 50, "PrivateTest"), (3, 50, "PublicTest"), (4, 60, "Training")
    )
    rows, tally = labels("fer2013", root)
    assert [(row["video"], row["base_video"], row["split_expr"]) for row in rows] == [
        ("fer0000001", "fer0000001", "train"),
        ("fer0000002", "fer0000000", "test"),
    ]
    assert tally.dropped == {"a repetition of the same picture or clip": 3}


def test_a_picture_with_two_labels_has_none(rows_of):
    rows, tally = labels("fer2013", rows_of((3, 50, "Training"), (4, 60, "Training"), (2, 50, "Training")))
    assert [row["video"] for row in rows] == ["fer0000001"]
    assert tally.dropped == {"the same picture or clip has another label elsewhere": 2}


def test_copies_of_a_picture_are_in_one_fold_in_both_datasets(voted):
    root = voted((50, "Training", "0,9,0,0,0,0,0,0,1,0"), (50, "PublicTest", "0,8,2,0,0,0,0,0,0,0"))
    for dataset in ("fer2013", "ferplus"):
        (row,) = labels(dataset, root)[0]
        # sha256sum says that the SHA-256 of fer0000000 begins with these digits.
        assert (row["base_video"], row["fold"]) == ("fer0000000", 1 + 0xCDA77BE4E2B50DCB % 4)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3,1 2 3,Training", "line 2: expected 2304 pixels, found 3"),
        (f"3,{grey(1)}", "line 2: expected 3 columns"),
        (f"7,{grey(1)},Training", "line 2: '7' is no class of this dataset, which has 0 .anger."),
        (f"3,{grey(1)},Test", "line 2: 'Test' is no split, expected one of Training"),
    ],
)
def test_a_bad_line_of_fer2013_is_named(tmp_path, line, said):
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", line)
    with pytest.raises(UsageError, match=r"fer2013\.csv, " + said):
        labels("fer2013", tmp_path)


def test_pixels_are_shown_as_written(tmp_path):
    pixels = " ".join(str(n % 256) for n in range(48 * 48))
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", f"3,{grey(7)},Training", f"2,{pixels},Training")
    shown = list(fer2013.pictures(tmp_path, [{"base_video": "fer0000001"}, {"base_video": "fer0000009"}]))
    assert shown[1] is None
    assert shown[0].shape == (48, 48, 3)
    assert shown[0][0, :4].tolist() == [[0] * 3, [1] * 3, [2] * 3, [3] * 3]
    assert np.all(shown[0][5, 16] == 0)  # 5 * 48 + 16 = 256


def test_a_pixel_that_is_no_brightness_is_refused(tmp_path):
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", f"3,{grey(256)},Training")
    with pytest.raises(UsageError, match="line 2: the pixels are not whole numbers from 0 to 255"):
        list(fer2013.pictures(tmp_path, [{"base_video": "fer0000000"}]))


def test_ferplus_takes_the_class_with_most_votes_and_says_how_many_it_has(voted):
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
    votes = [",".join("6" if column == n else "0" for column in range(8)) + ",3,1" for n in range(8)]
    rows, tally = labels("ferplus", voted(*((n, "Training", votes[n]) for n in range(8))))
    assert [row["expression"] for row in rows] == names
    assert {row["votes"] for row in rows} == {6}
    assert (tally.annotations, tally.dropped) == (8, {})


def test_ferplus_drops_no_face_unknown_and_ties_and_stays_joined_by_row(voted):
    root = voted(
        (0, "Training", "0,0,0,0,0,0,0,0,0,10"),  # its image name is empty
        (1, "Training", "0,0,0,2,0,0,0,0,8,0"),
        (2, "Training", "5,5,0,0,0,0,0,0,0,0"),
        (3, "PrivateTest", "4,0,0,0,0,0,0,5,0,1"),
    )
    rows, tally = labels("ferplus", root)
    assert [(row["video"], row["expression"], row["votes"], row["split_expr"]) for row in rows] == [
        ("fer0000003", "contempt", 5, "test")
    ]
    assert tally.annotations == 4
    assert tally.dropped == {
        "most votes are for NF (no face)": 1,
        "most votes are for unknown": 1,
        "no class has most of the votes": 1,
    }


def test_ferplus_goes_by_row_also_where_image_names_have_other_numbers(voted):
    """As published, the row after fer0000058.png is empty, and the one after that is fer0000059.png."""
    votes = ["9,0,0,0,0,0,0,0,0,0", "0,0,0,0,0,0,0,0,0,10", "0,9,0,0,0,0,0,0,0,0"]
    root = voted(*((n, "Training", each) for n, each in enumerate(votes)))
    lines = (root / "fer2013new.csv").read_text().replace("fer0000002.png", "fer0000001.png").splitlines()
    text(root / "fer2013new.csv", *lines)
    rows, _ = labels("ferplus", root)
    assert [(row["video"], row["expression"]) for row in rows] == [
        ("fer0000000", "neutral"),
        ("fer0000002", "happiness"),
    ]


@pytest.mark.parametrize("fault", ["short", "long", "shuffled"])
def test_files_whose_rows_do_not_match_are_refused(voted, tmp_path, fault):
    root = voted((0, "Training", "9,0,0,0,0,0,0,0,0,0"), (1, "PublicTest", "9,0,0,0,0,0,0,0,0,0"))
    lines = (root / "fer2013new.csv").read_text().splitlines()
    changed = {"short": lines[:2], "long": [*lines, lines[2]], "shuffled": [lines[0], lines[2], lines[1]]}
    text(root / "fer2013new.csv", *changed[fault])
    with pytest.raises(UsageError, match="do not have the same rows"):
        labels("ferplus", root)


def test_ferplus_without_the_pictures_of_fer2013_says_which_file_is_missing(voted):
    root = voted((0, "Training", "9,0,0,0,0,0,0,0,0,0"))
    (root / "fer2013.csv").unlink()
    with pytest.raises(UsageError, match=r"there is no .*fer2013\.csv"):
        labels("ferplus", root)


def test_a_vote_that_is_no_number_is_named(voted):
    root = voted((0, "Training", "many,0,0,0,0,0,0,0,0,0"))
    with pytest.raises(UsageError, match=r"fer2013new\.csv, line 2: expected a number, found 'many'"):
        labels("ferplus", root)
