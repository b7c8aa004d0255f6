"""Datasets in their publishers' layouts, through the commands: label, check sheet, faces, training, evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from labelled import picture, text

from common.bundle.manifest import Preprocess
from common.cli import main
from common.lake.layout import Lake
from train.data import faces as faces_
from train.data.clips import cut
from train.data.crops import CropReader
from train.data.sources import DataOptions
from train.stage_options import ClipCut

pytestmark = pytest.mark.slow

RECIPE = """
name: still
intended_use: tests
licence: Apache-2.0
precision: float32
preprocess: {crop: [0, 0, 112], size: 16, grey: true, standardise: true}
encoder: {kind: vit, image: 16, channels: 1, patch: 4, dim: 16, depth: 1, heads: 2}
finetune: {steps: 2, batch: 4, lr: 1.0e-3, warmup: 1}
heads:
  still: {tasks: [expr], steps: 2, batch: 4, lr: 1.0e-3, warmup: 1, model: {kind: linear}}
"""
WHOLE = Preprocess(crop=(0, 0, 112), size=16)
PLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def affectnet(root: Path) -> None:
    lines = [f"1/{name}.jpg,0,0,32,32,1;2,{label},0.5,0.5" for name, label in (("a", 1), ("b", 2), ("c", 1))]
    text(root / "Manually_Annotated_file_lists/training.csv", *lines[:2])
    text(root / "Manually_Annotated_file_lists/validation.csv", lines[2])
    for name in "abc":
        picture(root / f"Manually_Annotated_Images/1/{name}.jpg")


def rafdb(root: Path) -> None:
    names = ("train_00001", "train_00002", "test_0001")
    labels = [f"{name}.jpg {label}" for name, label in zip(names, (4, 5, 4), strict=True)]
    text(root / "basic/EmoLabel/list_patition_label.txt", *labels)
    for name in names:
        picture(root / f"basic/Image/aligned/{name}_aligned.jpg", side=100)


def fer(root: Path) -> None:
    usages = ("Training", "Training", "PublicTest")
    pixels = [" ".join([str(level)] * 2304) for level in (10, 100, 200)]
    rows = [f"{label},{each},{usage}" for label, each, usage in zip((3, 4, 3), pixels, usages, strict=True)]
    text(root / "fer2013.csv", "emotion,pixels,Usage", *rows)
    text(root / "fer2013new.csv", PLUS, *(f"{usage},x,0,9,0,0,0,0,0,0,1,0" for usage in usages))


def clip(folder: Path) -> None:
    """Two frames."""
    for frame in (1, 2):
        picture(folder / f"{frame}.jpg")


def dfew(root: Path) -> None:
    tests = {1: "1,1", 2: "2,2", 3: "3,1"}
    for number in range(1, 6):
        trained = [line for other, line in tests.items() if other != number]
        for part, lines in {"test": [tests[number]] if number in tests else [], "train": trained}.items():
            text(root / f"EmoLabel_DataSplit/{part}(single-labeled)/set_{number}.csv", "video_name,label", *lines)
    for number in tests:
        clip(root / f"Clip/clip_224x224/{number:05d}")


def ferv39k(root: Path) -> None:
    text(root / "4_setups/All_scenes/train_All.csv", "Action/Happy/0001 Happy", "Action/Sad/0001 Sad")
    text(root / "4_setups/All_scenes/test_All.csv", "Crime/Happy/0001 Happy")
    for name in ("Action/Happy", "Action/Sad", "Crime/Happy"):
        clip(root / f"2_ClipsforFaceCrop/{name}/0001")


def mafw(root: Path) -> None:
    tests = {1: "00001.mp4 anger", 2: "00002.mp4 sadness", 3: "00003.mp4 anger"}
    for number in range(1, 6):
        trained = [line for other, line in tests.items() if other != number]
        for part, lines in {"test": [tests[number]] if number in tests else [], "train": trained}.items():
            text(root / f"Train & Test Set/single/no_caption/set_{number}/{part}.txt", *lines)
    for number in tests:
        clip(root / f"data/frames/{number:05d}")


@pytest.mark.parametrize(
    ("dataset", "build", "frames"),
    [
        ("affectnet", affectnet, 1),
        pytest.param("rafdb", rafdb, 1, marks=pytest.mark.soak),
        pytest.param("fer2013", fer, 1, marks=pytest.mark.soak),
        ("ferplus", fer, 1),
        ("dfew", dfew, 2),
        pytest.param("ferv39k", ferv39k, 2, marks=pytest.mark.soak),
        pytest.param("mafw", mafw, 2, marks=pytest.mark.soak),
    ],
)
def test_a_dataset_goes_from_its_folder_to_an_evaluated_bundle(dataset, build, frames, tmp_path, capsys) -> None:
    root, lake, bundle = tmp_path / "root", tmp_path / "lake", tmp_path / "bundle"
    build(root)
    recipe = text(tmp_path / "still.yaml", RECIPE)
    assert main(["label", dataset, str(root), "--check", str(tmp_path / "sheet.png")]) == 0
    assert main(["label", dataset, str(root), "--lake", str(lake)]) == 0
    assert main(["ingest", str(root), "--shipped", dataset, "--lake", str(lake), "--workers", "1"]) == 0
    faces = faces_.read(CropReader(Lake(str(lake)), WHOLE, 112), DataOptions())
    assert (faces.join.labels, faces.join.joined) == (3, 3)
    assert faces.annotated("expr").tolist() == [True] * 3 * frames
    assert (faces.train["expr"].sum(), faces.validation["expr"].sum()) == (2 * frames, frames)
    assert main(["train", str(recipe), "--lake", str(lake), "--out", str(bundle)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(bundle), "--lake", str(lake), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"]["expr"] == frames


@pytest.mark.parametrize(("dataset", "build"), [("dfew", dfew), ("mafw", mafw)])
def test_each_fold_of_clips_tests_those_of_its_list_and_trains_on_the_others(dataset, build, tmp_path) -> None:
    root, lake = tmp_path / "root", tmp_path / "lake"
    build(root)
    assert main(["label", dataset, str(root), "--lake", str(lake)]) == 0
    assert main(["ingest", str(root), "--shipped", dataset, "--lake", str(lake), "--workers", "1"]) == 0
    for fold in range(3):
        faces = faces_.read(CropReader(Lake(str(lake)), WHOLE, 112), DataOptions(fold=fold))
        clips = cut(faces, ("happiness", "sadness", "anger"), ClipCut())
        assert clips.frames.tolist() == [2, 2, 2]
        tested, trained = clips.of(faces.validation["expr"]), clips.of(faces.for_encoder())
        assert [faces.names[number] for number in faces.video[tested.first]] == [f"{fold + 1:05d}"]
        assert sorted([*tested.first, *trained.first]) == clips.first.tolist()


def test_the_crops_of_two_people_in_one_video_get_each_their_own_labels(tmp_path, capsys) -> None:
    root, lake = tmp_path / "root", tmp_path / "lake"
    home = root / "6th_ABAW_Annotations/EXPR_Recognition_Challenge"
    text(home / "Train_Set/v_left.txt", "Neutral,Anger", "1", "1")
    text(home / "Train_Set/v.txt", "Neutral,Anger", "2", "-1")  # the other person, whose name has no side
    text(home / "Validation_Set/w.txt", "Neutral,Anger", "3", "3", "3")
    for track, frames in {"v_left": 2, "v": 2, "w": 3}.items():
        for frame in range(frames):
            picture(root / f"cropped_aligned/{track}/{frame + 1:05d}.jpg", side=112)
    assert main(["label", "affwild2", str(root), "--lake", str(lake)]) == 0
    assert main(["ingest", str(root), "--shipped", "affwild2", "--lake", str(lake), "--workers", "1"]) == 0
    faces = faces_.read(CropReader(Lake(str(lake)), WHOLE, 112), DataOptions())
    names = np.array(faces.names)[faces.video].tolist()
    assert names == ["v"] * 4 + ["w"] * 3
    assert len({(name, track) for name, track in zip(names, faces.track_id.tolist(), strict=True)}) == 3
    # the classes by their position: 1 anger, 2 disgust, 3 fear, -1 not annotated
    assert sorted(faces.labels["expr"].tolist()) == [-1, 1, 1, 2, 3, 3, 3]
    assert faces.labels["expr"].tolist()[4:] == [3, 3, 3]
    assert faces.train["expr"].tolist() == [True] * 4 + [False] * 3
    assert (faces.join.labels, faces.join.joined) == (6, 6)
    assert main(["status", str(lake)]) == 0
    assert "shipped.size=112" in capsys.readouterr().out
    assert main(["score", "--from-faces", "--lake", str(lake)]) == 2
    assert "archive main has crops that a dataset ships" in capsys.readouterr().err
