"""Crops that a dataset ships become rows of `faces`, with the plan, parts and ledger of every job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from labelled import picture, text

from common.cli import JobOptions
from common.commit.committer import Committer
from common.commit.staging import Destination
from common.errors import UsageError
from common.faces import decoded_crops
from common.lake.committed import committed
from common.lake.layout import Lake
from ingest import cli, shipped
from ingest.shipped import ShippedConfig

RED, BLUE = (200, 40, 40), (40, 40, 200)


@pytest.fixture
def rafdb(tmp_path) -> Path:
    root = tmp_path / "rafdb"
    text(root / "basic/EmoLabel/list_patition_label.txt", "train_00001.jpg 4", "train_00002.jpg 5", "test_0001.jpg 4")
    for name, colour in {"train_00001": RED, "train_00002": BLUE, "test_0001": RED}.items():
        picture(root / "basic/Image/aligned" / f"{name}_aligned.png", colour, side=100)
    return root


def run(dataset: str, root: Path, lake: Lake, **options) -> shipped.Summary:
    return shipped.run(dataset, root, lake, ShippedConfig(), JobOptions(lake=lake.url, workers=1, **options))


def rows(lake: Lake, table: str = "faces") -> list[dict]:
    (partition,) = lake.partitions(table)
    found = []
    for part in committed(lake, table, partition):
        with lake.store.open_input(part.key) as file:
            found += pq.ParquetFile(file).read().to_pylist()
    return sorted(found, key=lambda row: (row["uri"], row.get("frame_index", 0)))


def colour(row: dict) -> np.ndarray:
    columns = ("crop", "frame_index", "uri")
    return decoded_crops(pa.Table.from_pylist([{name: row[name] for name in columns}]))[0].astype(int)


@pytest.mark.slow
def test_a_picture_is_a_video_of_one_frame_with_its_face_as_it_is(rafdb, tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    done = run("rafdb", rafdb, lake)
    assert (done.planned, done.ok, done.rows, done.keys["archive"]) == (3, 3, 3, "main")
    found = rows(lake)
    folder = rafdb / "basic/Image/aligned"
    assert [row["uri"] for row in found] == [
        f"{folder}/{name}_aligned.png" for name in ("test_0001", "train_00001", "train_00002")
    ]
    for row, shown in zip(found, (RED, RED, BLUE), strict=True):
        assert (row["frame_index"], row["track_id"], row["face_status"]) == (0, 0, "ok")
        assert [row[name] for name in ("box_x0", "box_y0", "box_x1", "box_y1")] == [0, 0, 100, 100]
        assert row["det_score"] is row["nose_x"] is None
        assert colour(row).shape == (112, 112, 3)
        assert np.abs(colour(row) - shown).max() < 6
    (video, *_) = rows(lake, "videos")
    assert (video["status"], video["frames"], video["frames_with_face"], video["width"]) == ("ok", 1, 1, 100)


@pytest.mark.slow
def test_a_crop_is_scaled_about_the_centres_of_its_pixels(tmp_path):
    """If this fails and was meant to, raise SHIPPED_RESULTS and correct the test."""
    assert shipped.SHIPPED_RESULTS == 1
    ramp = np.tile(np.arange(48) * 4, 48)
    text(tmp_path / "fer/fer2013.csv", "emotion,pixels,Usage", f"3,{' '.join(map(str, ramp))},Training")
    lake = Lake(str(tmp_path / "lake"))
    run("fer2013", tmp_path / "fer", lake)
    (row,) = rows(lake)
    place = (np.arange(112) + 0.5) * 48 / 112 - 0.5  # of each column of the crop, in columns of the picture
    assert np.abs(colour(row)[..., 0] - 4 * np.clip(place, 0, 47)).max() <= 3


@pytest.mark.slow
def test_a_second_run_does_only_what_is_new_or_changed(rafdb, tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    run("rafdb", rafdb, lake)
    before = rows(lake)
    assert run("rafdb", rafdb, lake).planned == 0
    assert rows(lake) == before
    picture(rafdb / "basic/Image/aligned/train_00002_aligned.png", RED, side=90)
    done = run("rafdb", rafdb, lake)
    assert (done.planned, done.skipped) == (1, 2)
    found = rows(lake)
    assert len(found) == 3
    assert found[2]["box_x1"] == 90
    assert np.abs(colour(found[2]) - RED).max() < 6


@pytest.mark.slow
def test_a_picture_that_does_not_decode_fails_with_a_reason_and_the_others_go_on(rafdb, tmp_path):
    (rafdb / "basic/Image/aligned/train_00001_aligned.png").write_bytes(b"no picture")
    lake = Lake(str(tmp_path / "lake"))
    done = run("rafdb", rafdb, lake)
    assert (done.ok, done.failed) == (2, 1)
    (failed,) = [row for row in rows(lake, "videos") if row["status"] == "failed"]
    assert failed["reason"] == "decode_error"
    assert "train_00001_aligned.png cannot be decoded" in failed["message"]
    assert len(rows(lake)) == 2


@pytest.mark.slow
def test_a_folder_of_aff_wild2_is_a_video_whose_absent_frames_have_no_face(tmp_path):
    root = tmp_path / "affwild2"
    lines = ["valence,arousal", *["0,0"] * 6]
    for track in ("v_left", "w"):
        text(root / f"6th_ABAW_Annotations/VA_Estimation_Challenge/Train_Set/{track}.txt", *lines)
    for frame, shown in {2: RED, 3: BLUE, 5: RED}.items():
        picture(root / f"batch1/cropped_aligned/v_left/{frame:05d}.jpg", shown, side=112)
    lake = Lake(str(tmp_path / "lake"))
    assert run("affwild2", root, lake).planned == 1
    found = rows(lake)
    assert [(row["frame_index"], row["face_status"]) for row in found] == [
        (0, "no_face"),
        (1, "ok"),
        (2, "ok"),
        (3, "no_face"),
        (4, "ok"),
    ]
    assert np.abs(colour(found[2]) - BLUE).max() < 8
    assert [round(row["time_s"] * 30) for row in found] == [0, 1, 2, 3, 4]
    (partition,) = lake.partitions("faces")
    assert len(list(Committer(Destination.of(lake, partition)).records())) == 1


@pytest.mark.slow
def test_fer2013s_rows_become_faces_and_ferplus_takes_the_same(tmp_path):
    root = tmp_path / "fer"
    grey = [" ".join([str(level)] * 2304) for level in (10, 200)]
    text(root / "fer2013.csv", "emotion,pixels,Usage", f"3,{grey[0]},Training", f"4,{grey[1]},Training")
    plus = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    text(root / "fer2013new.csv", plus, "Training,,0,0,0,0,0,0,0,0,0,10", "Training,a,0,0,0,0,0,0,0,9,1,0")
    lake = Lake(str(tmp_path / "lake"))
    assert run("ferplus", root, lake).planned == 1
    assert run("fer2013", root, lake).planned == 1
    found = rows(lake)
    assert [row["uri"] for row in found] == [f"{root}/fer2013.csv/fer000000{n}" for n in range(2)]
    assert [round(colour(row).mean()) for row in found] == [10, 200]


@pytest.mark.slow
def test_affectnets_first_release_is_cut_to_the_box_of_its_list(tmp_path):
    import cv2

    root = tmp_path / "affectnet"
    names = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    text(root / "Manually_Annotated_file_lists/training.csv", names, "7/a.png,20,10,30,40,1;2,1,0,0")
    text(root / "Manually_Annotated_file_lists/validation.csv", "7/b.png,500,10,30,40,1;2,1,0,0")
    whole = np.full((64, 80, 3), RED[::-1], np.uint8)
    whole[10:50, 20:50] = BLUE[::-1]
    (root / "Manually_Annotated_Images/7").mkdir(parents=True)
    for name in ("a", "b"):
        cv2.imwrite(str(root / f"Manually_Annotated_Images/7/{name}.png"), whole)
    lake = Lake(str(tmp_path / "lake"))
    done = run("affectnet", root, lake)
    assert (done.ok, done.failed) == (1, 1)
    (row,) = rows(lake)
    assert np.abs(colour(row) - BLUE).max() < 6
    assert "the face is outside of its picture, which is 80x64" in done.failures[0]["message"]


def test_the_command_lists_what_it_would_do_and_refuses_what_does_not_apply(rafdb, tmp_path):
    lake = ["--lake", str(tmp_path / "lake")]
    told = CliRunner().invoke(cli.ingest, [str(rafdb), "--shipped", "rafdb", *lake, "--dry-run", "--json"])
    assert json.loads(told.stdout.splitlines()[-1])["planned"] == 3
    told = CliRunner().invoke(cli.ingest, [str(rafdb), "--shipped", "rafdb", *lake, "--every", "2"])
    assert (told.exit_code, "no option of detection" in told.output) == (2, True)
    assert not (tmp_path / "lake").exists()


def test_a_dataset_without_its_crops_is_refused_before_there_is_a_lake(tmp_path):
    text(tmp_path / "d/4_setups/All_scenes/train_All.csv", "A/Sad/1 Sad")
    text(tmp_path / "d/4_setups/All_scenes/test_All.csv", "A/Sad/2 Sad")
    with pytest.raises(UsageError, match=r"no faces of FERV39k are in .*mien label ferv39k --describe"):
        run("ferv39k", tmp_path / "d", Lake(str(tmp_path / "lake")))
    assert not (tmp_path / "lake").exists()
