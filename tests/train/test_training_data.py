"""What each stage of a recipe reads: folds, sources of pretraining, and what recipes of a table have in common."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lakes import put_part

from common.bundle.manifest import BundleManifest, Preprocess
from common.errors import MienError, UsageError
from common.labels import EXPRESSIONS
from common.lake.layout import Lake
from common.lake.schema import LABELS
from common.store.store import Store
from common.tasks import TASKS
from train import evaluate, job, loop, recipe, stages
from train.data import faces as faces_
from train.data import training
from train.data.crops import JPEG, PREPARED, CropReader, Crops
from train.data.sources import DataOptions
from train.recipe import Recipe
from train.report import seen
from train.stages import Stages
from train.validation import Kept

FOLD = {"v0": 1, "v1": 1, "v2": 2, "v3": 2, "v4": 3, "v5": 3, "v6": 4, "v7": 4}
OFFICIAL = ("v1", "v2", "v3")  # these validate in fold 0
LEVELS = {name: 20 + 10 * n for n, name in enumerate([*FOLD, "extra0", "extra1", "pic0", "pic1"])}


@pytest.fixture(scope="module")
def lake(
    tmp_path_factory: pytest.TempPathFactory, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> Path:
    """Eight labelled videos, two without labels, and a dataset of pictures; each of one grey level, and two frames."""
    root = tmp_path_factory.mktemp("folds")
    opened = Lake(str(root))

    def put(archive: str, *names: str) -> None:
        for name in names:
            crop = crop_jpeg(np.full((32, 32, 3), LEVELS[name], np.uint8))
            rows = [{"frame_index": n, "track_id": 0, "crop": crop} for n in range(2)]
            put_part(opened, "faces", name, make_faces(name, rows), n=0, keys={"ingest": "i-1", "archive": archive})

    put("clips", *FOLD)
    put("extra", "extra0", "extra1")
    put("pics", "pic0", "pic1")
    columns: dict[str, list[Any]] = {"valence": [0.1, 0.2], "arousal": [0.3, -0.2], "expression": list(EXPRESSIONS[:2])}
    columns |= {unit: [0, 1] for unit in TASKS["au"].outputs}
    for name, fold in FOLD.items():
        split = "validation" if name in OFFICIAL else "train"
        labels = make_labels(name, 2, split, **columns, fold=[fold] * 2)
        put_part(opened, "labels", name, labels, keys={"dataset": "clips"})
    for name, split in (("pic0", "train"), ("pic1", "validation")):
        put_part(opened, "labels", name, make_labels(name, 2, split, **columns), keys={"dataset": "pics"})
    return root


@pytest.fixture
def made(lake: Path, toy_recipe: str) -> Callable[..., tuple[Recipe, training.TrainingData]]:
    def of(*overrides: str) -> tuple[Recipe, training.TrainingData]:
        chosen = recipe.load(toy_recipe, ("data.dataset=clips", "data.archive=clips", *overrides))
        return chosen, training.read(chosen, Lake(str(lake)))

    return of


def videos(faces: faces_.FaceSet, rows: np.ndarray) -> set[str]:
    return {faces.names[number] for number in faces.video[rows]}


def names_of(pictures: Any) -> list[str]:
    """The videos that the pictures are of, by their grey levels."""
    shown = pictures.images(np.arange(len(pictures))).mean(axis=(1, 2, 3))
    return [min(LEVELS, key=lambda name: abs(LEVELS[name] - level)) for level in shown]


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_the_videos_of_a_fold_validate_and_train_nothing(made: Callable, fold: int) -> None:
    _, data = made(f"data.fold={fold}")
    held_out = {name for name, number in FOLD.items() if number == fold}
    for task in TASKS:
        assert videos(data.faces, data.faces.validation[task]) == held_out
        assert videos(data.faces, data.faces.train[task]) == FOLD.keys() - held_out
        assert data.faces.annotated(task).all()
    assert set(names_of(data.pretraining)) == FOLD.keys() - held_out
    assert videos(data.encoder, data.encoder.for_encoder()) == FOLD.keys() - held_out


def test_the_four_folds_hold_out_each_video_once_and_fold_0_those_of_the_official_split(made: Callable) -> None:
    held_out = [
        videos(data.faces, data.faces.validation["va"]) for data in (made(f"data.fold={k}")[1] for k in range(5))
    ]
    assert held_out[0] == set(OFFICIAL)
    assert sorted(name for each in held_out[1:] for name in each) == sorted(FOLD)


def test_a_video_outside_training_and_validation_is_in_no_fold(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    face = {"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}
    labels = [
        make_labels(name, 1, split, expression=["fear"], fold=[2], split_va=[None])
        for name, split in (("a", "test"), ("b", "train"))
    ]
    root = make_lake(tmp_path, {name: make_faces(name, [face]) for name in "ab"}, labels)
    reader = CropReader(Lake(str(root)), recipe.load("demo").preprocess.model_copy(update={"crop": (0, 0, 32)}), 32)
    faces = faces_.read(reader, DataOptions(fold=2))
    assert faces.validation["expr"].tolist() == [False, True]
    assert not faces.validation["va"].any()
    assert faces.annotated("expr").tolist() == [False, True]


def test_a_fold_that_the_dataset_does_not_have_is_refused(lake: Path, toy_recipe: str) -> None:
    picked = recipe.load(toy_recipe, ("data.dataset=pics", "data.archive=pics", "data.fold=3"))
    with pytest.raises(UsageError, match=r"^the dataset pics has no fold 3: set data\.fold to one of 0$"):
        training.read(picked, Lake(str(lake)))


def test_an_encoder_of_the_official_split_is_that_of_every_fold_and_what_it_has_seen_is_counted(made: Callable) -> None:
    for fold, seen_videos in ((0, 0), (1, 1), (2, 0), (3, 2), (4, 2)):
        _, data = made(f"data.fold={fold}", "encoder_fold=official")
        assert videos(data.encoder, data.encoder.for_encoder()) == FOLD.keys() - set(OFFICIAL)
        found = seen(data.faces, data.encoder)
        assert found["seen_by_encoder_videos"] == dict.fromkeys(TASKS, seen_videos)
        assert found["seen_by_encoder_frames"] == dict.fromkeys(TASKS, 2 * seen_videos)
        own = made(f"data.fold={fold}")[1]
        assert set(seen(own.faces, own.encoder)["seen_by_encoder_videos"].values()) == {0}


def test_pretraining_sees_all_its_sources_and_of_a_dataset_the_training_videos_alone(made: Callable) -> None:
    sources = "mae.data=[{archive: extra}, {dataset: pics, archive: pics}, {dataset: clips, archive: clips, train: v0}]"
    _, data = made(sources)
    assert names_of(data.pretraining) == [*["extra0"] * 2, *["extra1"] * 2, *["pic0"] * 2, *["v0"] * 2]
    shuffled = np.array([6, 0, 4, 2, 7])
    np.testing.assert_array_equal(
        data.pretraining.images(shuffled), data.pretraining.images(np.arange(len(data.pretraining)))[shuffled]
    )


def test_of_an_archive_with_labels_of_two_datasets_pretraining_sees_nothing_that_either_holds_out(
    tmp_path: Path,
    toy_recipe: str,
    make_lake: Callable,
    make_faces: Callable,
    make_labels: Callable,
    crop_jpeg: Callable,
) -> None:
    face = {"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}
    columns: dict[str, list[Any]] = {"valence": [0.1], "arousal": [0.3], "expression": ["fear"]}
    columns |= {unit: [1] for unit in TASKS["au"].outputs}
    splits = {"both": ("train", "train"), "first": ("validation", "train"), "second": ("train", "validation")}
    mine = [make_labels(name, 1, split, **columns) for name, (split, _) in splits.items()]
    root = make_lake(tmp_path, {name: make_faces(name, [face]) for name in splits}, mine)
    for name, (_, split) in splits.items():
        put_part(Lake(str(root)), "labels", name, make_labels(name, 1, split, **columns), keys={"dataset": "other"})
    chosen = recipe.load(toy_recipe, ("data.dataset=toy", "mae.data=[{dataset: other}]"))
    data = training.read(chosen, Lake(str(root)))
    ((crops, rows),) = data.pretraining.parts if data.pretraining else ()
    assert crops.videos["uri"][crops.keys["video"].iloc[rows]].tolist() == ["/v/both.mp4"]


def test_faces_of_two_stages_are_read_once(made: Callable) -> None:
    _, data = made("data.fold=1", "encoder_fold=official", "mae.data=[{dataset: clips, archive: clips}]")
    assert data.encoder is not data.faces
    assert data.encoder.crops is data.faces.crops
    assert data.pretraining.parts[0][0] is data.faces.crops


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ("[{archive: clips}]", r"mae\.data\.0 takes all faces of the archive clips, also those that data validates on"),
        ("[{archive: none}]", r"mae\.data\.0\.archive, mae\.data\.0\.faces and mae\.data\.0\.ingest must name one set"),
        (
            "[{archive: extra}, {dataset: d}]",
            r"no labels of the dataset d: set mae\.data\.1\.dataset to one of clips, pics",
        ),
        ("[{dataset: pics, archive: extra}]", r"mae\.data\.0: no face of .*archive=extra .* of the dataset pics"),
    ],
)
def test_a_source_of_pretraining_that_cannot_be_taken_is_refused_by_its_key(
    made: Callable, sources: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(f"mae.data={sources}")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("finetune=null", "mae=null"),
            "finetune: null leaves the encoder untrained: give it mae or init",
        ),
        (("mae.data=[{archive: a, train: x}]",), r"'mae\.data\.0' should name the dataset whose training videos"),
        (("data.fold=5",), r"'data\.fold' should be less than or equal to 4, not 5"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(toy_recipe: str, overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        recipe.load(toy_recipe, overrides)


def test_recipes_that_share_a_folder_share_the_stages_that_read_the_same(
    made: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def fit(name: str, *_: Any) -> Kept:
        trained.append(name)
        return Kept(step=0)

    monkeypatch.setattr(loop, "fit", fit)
    session = loop.Session(0, 1, "float32", "cpu", tmp_path, Store(str(tmp_path)))

    def run(*overrides: str) -> list[str]:
        """The stages that had to be trained (here: by nothing)."""
        trained.clear()
        Stages(*made("mae.data=[{archive: extra}]", *overrides), session).run()
        return trained.copy()

    heads = ["va", "expr", "au"]
    assert run() == ["mae", "finetune", *heads]
    assert run() == []
    # another fold of the same pretraining, and of the same official encoder
    assert run("data.fold=1") == ["finetune", *heads]
    assert run("data.fold=1", "encoder_fold=official") == heads
    assert run("data.fold=1", "encoder_fold=official", "heads.temporal.tasks=[expr]") == []
    assert run("finetune=null") == heads
    assert run("data.fold=1", "finetune=null") == heads
    assert run("mae.data=[{archive: pics}]") == ["mae", "finetune", *heads]
    # without sources of its own, pretraining reads the training videos of the fold
    assert run("mae.data=[]") == ["mae", "finetune", *heads]
    assert run("mae.data=[]", "data.fold=1")[0] == "mae"
    # a stage whose weights are chosen by validation reads the faces that it is validated on
    best = ("finetune.select=best", "finetune.validate_every=1")
    assert run(*best) == ["finetune", *heads]
    assert run(*best, "data.validation=v1") == ["finetune", *heads]
    assert run("data.validation=v1") == []
    # no file was written over: the first recipe's are still there
    assert run() == []


def test_crops_that_are_too_many_to_keep_prepared_give_the_same_pictures(
    lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    preprocess = recipe.load(toy_recipe).preprocess
    readers = (CropReader(Lake(str(lake)), preprocess, 32, tmp_path, prepared) for prepared in (1 << 30, 0))
    prepared, at_use = (faces_.read(each, DataOptions(dataset="clips", archive="clips")) for each in readers)
    assert (prepared.crops.kind, at_use.crops.kind) == (PREPARED, JPEG)
    rows = np.array([5, 0, 11, 5])
    np.testing.assert_array_equal(prepared.images(rows), at_use.images(rows))


def test_a_set_of_faces_is_copied_from_the_lake_once_for_all_runs_that_share_the_folder(
    lake: Path, toy_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess, source = recipe.load(toy_recipe).preprocess, DataOptions(archive="clips")

    def read(**changes: Any) -> Crops:
        reader = CropReader(Lake(str(lake)), preprocess.model_copy(update=changes), 32, tmp_path)
        return reader.crops(reader.partition(source, "data"))

    first = read()
    monkeypatch.setattr(Store, "open_input", lambda *_: pytest.fail("the lake is read again"))
    second = read()
    pd.testing.assert_frame_equal(second.keys, first.keys)
    pd.testing.assert_frame_equal(second.videos, first.videos)
    every = np.arange(len(first.keys))
    np.testing.assert_array_equal(second.images(every), first.images(every))
    with pytest.raises(BaseException, match="the lake is read again"):
        read(grey=False)


def test_faces_that_are_replaced_while_they_are_copied_are_refused(
    tmp_path: Path, toy_recipe: str, make_lake: Callable, make_faces: Callable, crop_jpeg: Callable
) -> None:
    rows = [{"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}]
    root = make_lake(tmp_path / "lake", {"a": make_faces("a", rows)}, [LABELS.empty_table()])
    reader = CropReader(Lake(str(root)), recipe.load(toy_recipe).preprocess, 32, tmp_path / "cache")
    partition = reader.partition(DataOptions(), "data")
    (part,) = root.glob("faces/**/*.parquet")
    listed = reader.lake.store.list

    def replaced(prefix: str) -> Any:
        found = list(listed(prefix))
        if prefix.startswith("faces/"):
            os.utime(part, ns=(1, 1))  # after it was listed
        return found

    reader.lake.store.list = replaced  # type: ignore[method-assign]
    with pytest.raises(MienError, match=r"^the faces in .* were replaced while they were read: start again$"):
        reader.crops(partition)


def test_pictures_take_no_memory_beyond_those_that_are_asked_for(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, crop_jpeg: Callable
) -> None:
    crop = crop_jpeg(np.zeros((32, 32, 3), np.uint8))
    faces = make_faces("a", [{"frame_index": n, "track_id": 0, "crop": crop} for n in range(1500)])
    root = make_lake(tmp_path / "lake", {"a": faces}, [LABELS.empty_table()])
    reader = CropReader(Lake(str(root)), Preprocess(crop=(0, 0, 32), size=64), 32, tmp_path / "cache")
    crops = reader.crops(reader.partition(DataOptions(), "data"))
    tracemalloc.start()
    seen = sum(len(crops.images(np.arange(first, first + 50))) for first in range(0, 1500, 50))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 1500
    assert 50 * 3 * 64 * 64 < most < 4 * 50 * 3 * 64 * 64


def test_features_are_computed_once_for_an_encoder_and_its_faces(
    made: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, seen = [], []

    def encode(*arguments: Any) -> np.ndarray:
        encoded.append(1)
        return evaluate.encode(*arguments)

    def fit(name: str, objective: Any, batch_at: Callable, *_: Any) -> Kept:
        if name in TASKS:
            seen.append(batch_at(0)["features"])
        return Kept(step=0)

    monkeypatch.setattr(stages, "encode", encode)
    monkeypatch.setattr(loop, "fit", fit)
    session = loop.Session(0, 1, "float32", "cpu", tmp_path, Store(str(tmp_path)))

    def run(*overrides: str) -> int:
        """How often faces were encoded."""
        encoded.clear()
        Stages(*made("mae.data=[{archive: extra}]", *overrides), session).run()
        return len(encoded)

    assert run("heads.temporal.tasks=[va]") == 1
    assert run("heads.temporal.tasks=[va]", "heads.temporal.lr=0.1") == 0
    torch.testing.assert_close(seen[1], seen[0], atol=0, rtol=0)
    assert run("heads.temporal.tasks=[va]", "finetune.lr=0.1") == 1
    assert run("heads.temporal.tasks=[va]", "data.train=v0") == 1


def test_a_damaged_crop_is_named_before_anything_is_trained(
    tmp_path: Path,
    toy_recipe: str,
    make_lake: Callable,
    make_faces: Callable,
    make_labels: Callable,
    crop_jpeg: Callable,
) -> None:
    whole = crop_jpeg(np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8))
    rows = [{"frame_index": n, "track_id": 0, "crop": crop} for n, crop in enumerate((whole, whole[:40]))]
    root = make_lake(tmp_path, {"a": make_faces("a", rows)}, [make_labels("a", 2, "train", expression=["fear"] * 2)])
    with pytest.raises(
        Exception, match=r"^the stored crop of a face in frame 1 of /v/a\.mp4 is damaged .*ingest it again"
    ):
        training.read(recipe.load(toy_recipe), Lake(str(root)))


def test_a_task_that_the_dataset_does_not_have_is_told_from_videos_that_are_not_there(
    tmp_path: Path,
    toy_recipe: str,
    make_lake: Callable,
    make_faces: Callable,
    make_labels: Callable,
    crop_jpeg: Callable,
) -> None:
    face = {"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}
    root = make_lake(tmp_path, {"a": make_faces("a", [face])}, [make_labels("a", 1, "train", expression=["fear"])])
    with pytest.raises(UsageError, match=r"^the dataset toy has no labels of va: leave va out of the recipe, or"):
        training.read(recipe.load(toy_recipe), Lake(str(root)))


def test_classes_that_no_label_of_a_fold_has_are_named(made: Callable, caplog: pytest.LogCaptureFixture) -> None:
    made("data.fold=2", "heads.temporal.tasks=[expr]")
    told = [record.msg for record in caplog.records if "that no label of the" in str(record.msg)]
    assert [each["event"].split()[-3] for each in told] == ["train", "validation"]
    assert told[0]["classes"] == list(EXPRESSIONS[2:])
    assert told[0]["fold"] == 2


def test_what_a_bundles_encoder_has_seen_is_found_in_the_lake_that_it_was_trained_on(
    made: Callable, lake: Path, toy_recipe: str
) -> None:
    _, data = made("data.fold=3", "encoder_fold=official")
    reader = CropReader(Lake(str(lake)), recipe.load(toy_recipe).preprocess, 32)

    def manifest(**changes: Any) -> BundleManifest:
        stated = {"encoder_fold": 0, "faces": str(data.faces.source), "dataset": "clips"} | changes
        return BundleManifest.model_construct(data=stated, recipe={"data": {"train": "*", "validation": "*"}})

    encoder = job._encoder_of(manifest(), reader, data.faces)
    assert seen(data.faces, encoder)["seen_by_encoder_videos"] == dict.fromkeys(TASKS, 2)
    for elsewhere in ({"dataset": "pics"}, {"faces": "faces/other"}, {"encoder_fold": None}):
        assert job._encoder_of(manifest(**elsewhere), reader, data.faces) is None
