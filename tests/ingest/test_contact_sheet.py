"""The sheet of faces by class: each class in its own row, from the pictures, frames or clips of the dataset."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from labelled import clip, picture, text

from common.errors import UsageError
from ingest.contact_sheet import SHOWN, SIDE, sheet

COLOURS = {"surprise": (200, 40, 40), "fear": (40, 200, 40), "disgust": (40, 40, 200), "happiness": (200, 200, 40)}


def places(root, dataset: str) -> dict[str, list[list[int]]]:
    """Of each class the colours in the middle of its places."""
    made = sheet(dataset, root)
    middle = made.picture[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]
    assert middle.shape == (len(made.counts), SHOWN, 3)
    return {name: row.tolist() for name, row in zip(made.counts, middle, strict=True)}


def is_colour(found: list[int], colour: tuple[int, int, int]) -> bool:
    return np.abs(np.subtract(found, colour)).max() < 12


@pytest.fixture
def rafdb(tmp_path):
    """Four classes, each of a colour of its own; the third has twelve pictures, the others two."""
    lines = []
    for number, colour in enumerate(COLOURS.values(), 1):
        for copy in range(12 if number == 3 else 2):
            name = f"train_{number}{copy:04d}"
            lines.append(f"{name}.jpg {number}")
            picture(tmp_path / "basic/Image/aligned" / f"{name}_aligned.jpg", colour)
    text(tmp_path / "basic/EmoLabel/list_patition_label.txt", *lines)
    return tmp_path


def test_each_row_shows_the_pictures_of_the_class_that_it_is_named_after(rafdb):
    found = places(rafdb, "rafdb")
    assert set(found) == set(COLOURS)
    for name, row in found.items():
        shown = SHOWN if name == "disgust" else 2
        assert all(is_colour(colour, COLOURS[name]) for colour in row[:shown])
        assert not any(is_colour(colour, COLOURS[name]) for colour in row[shown:])


def test_the_sheet_says_how_many_annotations_a_class_has(rafdb):
    assert sheet("rafdb", rafdb).counts == {"disgust": 12, "fear": 2, "happiness": 2, "surprise": 2}


def test_a_second_sheet_is_the_same(rafdb):
    assert np.array_equal(sheet("rafdb", rafdb).picture, sheet("rafdb", rafdb).picture)


def test_the_file_is_a_png_with_all_the_colours(rafdb, tmp_path):
    out = tmp_path / "sheet.png"
    sheet("rafdb", rafdb).save(out)
    assert out.read_bytes().startswith(b"\x89PNG")
    pixels = cv2.imread(str(out))[..., ::-1].reshape(-1, 3).astype(int)
    for colour in COLOURS.values():
        assert (np.abs(pixels - colour).max(axis=1) < 12).sum() > 1000


def test_of_clips_the_middle_frames_are_shown(tmp_path):
    lists = tmp_path / "Train & Test Set/single/no_caption"
    for number in range(1, 6):
        text(lists / f"set_{number}/test.txt", f"{number:05d}.mp4 {'contempt' if number % 2 else 'anxiety'}")
        text(lists / f"set_{number}/train.txt")
        middle = (200, 40, 40) if number % 2 else (40, 40, 200)
        clip(tmp_path / "clips" / f"{number:05d}.mp4", [(0, 0, 0), middle, (0, 0, 0)])
    found = places(tmp_path, "mafw")
    assert list(found) == ["contempt", "anxiety"]
    assert all(is_colour(colour, (200, 40, 40)) for colour in found["contempt"][:3])
    assert all(is_colour(colour, (40, 40, 200)) for colour in found["anxiety"][:2])


def test_aff_wild2_shows_the_crops_of_frames_and_the_action_units(tmp_path):
    home = tmp_path / "8th_ABAW_Annotations"
    text(home / "EXPR_Recognition_Challenge/Train_Set/v.txt", "Neutral,Anger", "0", "-1")
    text(home / "EXPR_Recognition_Challenge/Train_Set/w_left.txt", "Neutral,Anger", "-1", "3")
    units = ("0," * 11 + "0", "1," + "0," * 10 + "0")
    text(home / "AU_Detection_Challenge/Train_Set/w_left.txt", "AU1,AU2", *units)
    picture(tmp_path / "batch1/cropped_aligned/v/00001.jpg", (200, 40, 40))
    picture(tmp_path / "cropped_aligned_new_50_vids/w_left/00002.jpg", (40, 40, 200))
    found = places(tmp_path, "affwild2")
    assert list(found) == ["neutral", "fear", "au01 active"]
    assert is_colour(found["neutral"][0], (200, 40, 40))
    assert is_colour(found["fear"][0], (40, 40, 200))
    assert is_colour(found["au01 active"][0], (40, 40, 200))


def test_pictures_in_a_table_are_shown(tmp_path):
    grey = " ".join(["77"] * 2304)
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", f"1,{grey},Training")
    assert places(tmp_path, "fer2013")["disgust"][0] == [77, 77, 77]


def test_a_picture_that_is_no_square_keeps_its_shape(tmp_path):
    text(tmp_path / "EmoLabel/list_patition_label.txt", "train_1.jpg 1")
    (tmp_path / "Image/aligned").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "Image/aligned/train_1_aligned.png"), np.zeros((10, 40, 3), np.uint8))
    made = sheet("rafdb", tmp_path).picture[:, :SIDE]
    assert (made.max(axis=2) == 0).sum() == SIDE * SIDE // 4


def test_without_pictures_it_is_said_where_they_belong(tmp_path):
    text(tmp_path / "basic/EmoLabel/list_patition_label.txt", "train_00001.jpg 1")
    with pytest.raises(UsageError, match=r"the labelled pictures are not in .*mien label rafdb --describe"):
        sheet("rafdb", tmp_path)


def test_without_classes_there_is_nothing_to_show(tmp_path):
    text(tmp_path / "8th_ABAW_Annotations/VA_Estimation_Challenge/Train_Set/v.txt", "valence,arousal", "0,0")
    with pytest.raises(UsageError, match="no class to show"):
        sheet("affwild2", tmp_path)


def test_a_sheet_that_cannot_be_written_is_named(rafdb, tmp_path):
    with pytest.raises(UsageError, match=r"absent/sheet\.png cannot be written"):
        sheet("rafdb", rafdb).save(tmp_path / "absent" / "sheet.png")
