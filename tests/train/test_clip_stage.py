"""The stage `clips`: what it trains and validates on, the bundle that it makes, and what is reported of clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sklearn.metrics
import torch
from safetensors.torch import save_file

from common.bundle.card import card
from common.bundle.folder import Bundle
from common.cli import main
from common.errors import UsageError
from common.lake.layout import Lake
from common.store.store import Store
from examples import small_clip
from train import bootstrap, clip_report, confusion_picture, job, loop, metrics, processes, recipe, study
from train.clip_stage import ClipTraining
from train.data import training
from train.models import dfer_clip
from train.objectives import ClipExpressions
from train.recipe import Recipe

RECIPE = """
name: clips
intended_use: tests
licence: Apache-2.0
precision: float32
crop: {size: 32}
preprocess: {crop: [0, 0, 32], size: 16, standardise: true}
encoder: {kind: clip, image: 16, patch: 8, dim: 64, depth: 1, heads: 1, projection: 32}
init: random
clips:
  epochs: 4
  batch: 16
  lr: 3.0e-2
  lr_of: {image: 1.0e-2}
  cut: {shortest: 0.2}
  model: {heads: 2, dim_head: 8, mlp: 32, windowing: {stride: 16}, text: {width: 64, depth: 1, heads: 1}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "clips.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def recipe_of(recipe_file: str) -> Callable[..., Recipe]:
    return lambda *keys: recipe.load(recipe_file, keys)


def stage_of(chosen: Recipe, lake: Path, work: Path) -> ClipTraining:
    session = loop.Session(0, 1, "float32", "cpu", work, Store(str(work)))
    return ClipTraining(chosen, training.read(chosen, Lake(str(lake))).faces, session)


def videos(stage: ClipTraining, clips: Any) -> set[str]:
    return {stage._faces.names[number] for number in stage._faces.video[clips.first]}


# --- metrics


def guesses(count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(6, count, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    values = rng.dirichlet(np.ones(7), count) + 0.3 * np.eye(7)[labels]
    return values, labels, rng.integers(0, 40, count)


def test_uar_war_and_confusion_are_those_of_scikit_learn() -> None:
    values, labels, _ = guesses()
    predicted = values.argmax(1)
    found = metrics.measure("clips", values, labels)
    assert found["war"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    present = list(range(6))  # no label has the seventh class
    recall = sklearn.metrics.recall_score(labels, predicted, labels=present, average="macro")
    assert found["uar"] == pytest.approx(recall)
    expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=list(range(7)))
    np.testing.assert_array_equal(metrics.confusion(predicted, labels, 7), expected)


def test_drawing_each_video_as_often_as_another_number_repeats_its_clips() -> None:
    values, labels, video = guesses()
    number = np.unique(video, return_inverse=True)[1]
    weights = np.random.default_rng(1).integers(0, 4, (3, number.max() + 1))
    found = bootstrap.resampled("clips", values, labels, video, weights)
    for n, times in enumerate(weights):
        rows = np.repeat(np.arange(len(labels)), times[number])
        for name, value in metrics.measure("clips", values[rows], labels[rows]).items():
            assert found[name][n] == pytest.approx(value)


def test_a_report_of_clips_is_read_in_classes_and_per_cent() -> None:
    labels = np.array([0, 0, 0, 1])
    values = np.eye(3)[[0, 0, 1, 1]]
    found = clip_report.report(values, labels, np.array([0, 1, 2, 3]), ("anger", "fear", "sadness"))
    assert found["uar"] == pytest.approx(5 / 6)
    assert found["war"] == 0.75
    assert found["chance"] == {"uar": 0.5, "war": 0.75}
    assert found["confusion"]["anger"] == {"anger": 2, "fear": 1, "sadness": 0}
    assert found["absent"] == {"expr": ["sadness"]}
    lines = clip_report.as_text(found).splitlines()
    assert lines[0].startswith("UAR 0.833  95 % interval ")
    assert lines[0].endswith("by chance 0.500")
    assert lines[-3].split() == ["anger", "67", "33", "0"]


def test_the_picture_of_a_confusion_has_each_share_in_its_square(tmp_path: Path) -> None:
    values, labels, video = guesses()
    found = clip_report.report(values, labels, video, recipe_classes := tuple("abcdefg"))
    axis = confusion_picture.figure_of(found).axes[0]
    drawn = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axis.texts}
    for (row, column), share in np.ndenumerate(clip_report.shares(found["confusion"])):
        assert drawn[row, column] == pytest.approx(100 * share, abs=0.51)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(recipe_classes)
    confusion_picture.draw(found, tmp_path / "c.png")
    assert cv2.imread(str(tmp_path / "c.png")) is not None


def test_a_model_of_frames_has_no_confusion_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="judges single frames"):
        job.draw_confusion({"f1_expression": 0.5}, tmp_path / "c.png")


# --- what is trained and validated


@pytest.mark.parametrize(
    ("select", "trains", "validates"),
    [
        ("last", {"toy_0", "toy_1", "toy_2", "toy_3"}, {"toy_4", "toy_5"}),
        ("test", {"toy_0", "toy_1", "toy_2", "toy_3"}, {"toy_4", "toy_5"}),
        ("best", None, None),
    ],
)
def test_the_best_is_chosen_on_held_out_training_videos_or_on_those_of_the_test(
    recipe_of: Callable,
    toy_lake: Path,
    tmp_path: Path,
    select: str,
    trains: set[str] | None,
    validates: set[str] | None,
) -> None:
    keys = (f"clips.select={select}", "clips.validations_per_epoch=1", "clips.held_out=0.3")
    stage = stage_of(recipe_of(*keys), toy_lake, tmp_path)
    training_videos, validated = videos(stage, stage.clips), videos(stage, stage._validated)
    if trains is not None:
        assert (training_videos, validated) == (trains, validates)
        return
    assert len(validated) == 1
    assert training_videos | validated == {"toy_0", "toy_1", "toy_2", "toy_3"}
    assert not training_videos & validated


def test_a_step_sees_sixteen_frames_of_each_clip_and_depends_on_its_number_alone(
    recipe_of: Callable, toy_lake: Path, tmp_path: Path
) -> None:
    stage = stage_of(recipe_of("clips.augment.shift=2"), toy_lake, tmp_path)
    first = stage.batch_at(3)
    assert first["images"].shape == (16, 16, 3, 16, 16)
    torch.testing.assert_close(stage.batch_at(3)["images"], first["images"])
    assert not torch.equal(stage.batch_at(4)["images"], first["images"])


def test_what_has_a_rate_of_0_is_frozen_and_the_rest_is_trained_by_its_part(
    recipe_of: Callable, toy_lake: Path, tmp_path: Path
) -> None:
    keys = ("clips.lr_of={image: 0, prompt: 1.0}", "clips.model.depth=2")
    objective = stage_of(recipe_of(*keys), toy_lake, tmp_path).objective
    assert list(objective.parts()) == ["temporal", "prompt"]
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"temporal", "classifier"}
    assert {name for name in trained if "classifier" in name} == {"model.classifier.prompts.context"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("init=null",), "clips starts from a whole CLIP"),
        (("finetune={steps: 1, batch: 2, lr: 1}",), "leave out mae, finetune, heads and encoder_fold"),
        (("encoder_fold=official",), "leave out mae, finetune, heads and encoder_fold"),
        (("encoder={kind: vit, image: 16, patch: 8}",), "needs an encoder of kind clip, not vit"),
        (("clips=null",), "needs heads, or clips"),
        (("clips.select=test",), "validations_per_epoch or validate_every"),
        (("clips.classes=[anger, rage]",), "should have classes of neutral"),
        (("clips.lr_of.head=1",), "'image', 'temporal', 'prompt' or 'linear'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(recipe_of: Callable, keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_of(*keys)


def test_a_stage_without_clips_is_refused(recipe_of: Callable, toy_lake: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training clip with a label of clips\.classes"):
        stage_of(recipe_of("clips.cut.shortest=9"), toy_lake, tmp_path)
    with pytest.raises(UsageError, match="clips cannot be validated"):
        stage_of(recipe_of("data.validation=none*", "clips.validations_per_epoch=1"), toy_lake, tmp_path)


@pytest.mark.soak
def test_every_zero_stage_trains_a_model_of_clips_alike(recipe_of: Callable, toy_lake: Path, tmp_path: Path) -> None:
    chosen = recipe_of("clips.epochs=null", "clips.steps=4")
    faces = training.read(chosen, Lake(str(toy_lake)), tmp_path).faces
    losses = []
    with processes.process_group():
        for zero in range(4):
            work = tmp_path / str(zero)
            work.mkdir()
            session = loop.Session(0, zero, "float32", "cpu", work, Store(str(work)))
            stage = ClipTraining(chosen, faces, session)
            loop.fit("clips", stage.objective, stage.batch_at, chosen.clips, session, len(stage.clips))
            losses.append([json.loads(line)["loss"] for line in (work / "clips.jsonl").read_text().splitlines()])
    assert len(losses[0]) == 4
    for found in losses[1:]:
        assert found == pytest.approx(losses[0], rel=1e-5)


# --- a run


@pytest.fixture(scope="module")
def made(recipe_of: Callable, toy_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    root = tmp_path_factory.mktemp("made")
    chosen = recipe_of("clips.select=test", "clips.by=uar", "clips.validations_per_epoch=1")
    return job.run(chosen, Lake(str(toy_lake)), root / "bundle", root / "work"), root


@pytest.mark.slow
def test_a_bundle_of_clips_has_the_encoder_and_a_head_and_says_how_it_was_selected(made: tuple[Bundle, Path]) -> None:
    manifest, root = made[0].manifest, made[1]
    head = manifest.heads["expr"]
    assert (manifest.encoder.kind, head.kind) == ("clip", "dfer_clip")
    assert head.outputs == ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
    assert set(head.options["prompts"]["descriptions"]) == set(head.outputs)
    record = manifest.data["stages"]["clips"]
    assert record["score"] == pytest.approx(manifest.metrics["uar"])
    assert (record["by"], record["median_seconds"]) == ("uar", pytest.approx(1 / 3, abs=1e-3))
    assert head.options["windowing"]["fps"] == pytest.approx(16 * 3, rel=5e-3), "scoring cuts clips as long as these"
    assert manifest.metrics["seen_by_encoder_videos"]["expr"] == 0
    assert (root / "work" / "confusion-bundle.png").is_file()
    page = card(manifest)
    assert "selected on the very videos that it was measured on" in page
    anger = " | ".join(str(count) for count in manifest.metrics["confusion"]["anger"].values())
    assert f"| anger | {anger} |" in page


@pytest.mark.slow
def test_evaluation_measures_the_clips_that_training_measured(
    made: tuple[Bundle, Path], toy_lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, root = made
    found = job.evaluate_bundle(bundle, Lake(str(toy_lake)), ())
    assert found == bundle.manifest.metrics
    picture = root / "c.png"
    assert main(["evaluate", str(bundle.path), "--lake", str(toy_lake), "--picture", str(picture)]) == 0
    assert capsys.readouterr().out.startswith(f"UAR {found['uar']:.3f}")
    assert picture.is_file()


@pytest.mark.slow
def test_a_clip_that_nothing_is_trained_of_is_used_as_it_is(
    recipe_of: Callable, toy_lake: Path, tmp_path: Path
) -> None:
    keys = ("clips.lr_of.image=0", "clips.model.depth=0", "clips.model.prompts.context=0")
    bundle = job.run(recipe_of(*keys), Lake(str(toy_lake)), tmp_path / "bundle")
    assert bundle.manifest.data["stages"]["clips"]["steps"] == 0
    assert 0 <= bundle.manifest.metrics["uar"] <= 1


def test_the_file_of_the_small_clip_gives_both_towers_their_weights(tmp_path: Path) -> None:
    file = tmp_path / "small_clip.safetensors"
    chosen = recipe.load("dfer-clip-small", (f"init={file}",))
    torch.manual_seed(3)
    made = small_clip.SmallClip(chosen)
    save_file(made.published(), file)
    classes = chosen.clips.classes
    model, _ = dfer_clip.build(chosen.encoder, chosen.clips.model, classes, chosen.weights)
    pictures = torch.randn(2, 3, 64, 64)
    texts = small_clip.captions(classes)[0]  # the descriptions
    with torch.no_grad():
        torch.testing.assert_close(model.image(pictures), made.visual(pictures))
        said = model.classifier.tower(made.token_embedding(texts), texts.argmax(-1))
        torch.testing.assert_close(said, made.text(made.token_embedding(texts), texts.argmax(-1)))
        for words, text in zip(model.classifier.prompts.words, texts, strict=True):
            torch.testing.assert_close(words, made.token_embedding(text))


@pytest.mark.soak
def test_every_row_of_the_small_table_is_trained_and_printed(recipe_file: str, toy_lake: Path, tmp_path: Path) -> None:
    rows = study.load("dfer-small", seeds=(0,)).model_copy(
        update={"recipe": recipe_file, "set": ("clips.epochs=null", "clips.steps=1")}
    )
    made = job.run_study(rows, Lake(str(toy_lake)), tmp_path / "table")
    assert [row[0] for row in made.rows] == [*(variant.title for variant in rows.variants.values()), "by chance"]
    assert all(0 <= float(cell) <= 1 for row in made.rows for cell in row[2:])


def test_the_loss_is_the_cross_entropy_of_the_models_logits(
    recipe_of: Callable, toy_lake: Path, tmp_path: Path
) -> None:
    stage = stage_of(recipe_of(), toy_lake, tmp_path)
    batch = stage.batch_at(0)
    objective = stage.objective.eval()
    assert isinstance(objective, ClipExpressions)
    with torch.no_grad():
        pictures = batch["images"].double() / 255
        mean, std = pictures.mean((2, 3, 4), keepdim=True), pictures.std((2, 3, 4), keepdim=True)
        logits = objective.model(((pictures - mean) / (std + 1e-3)).float())
        expected = torch.nn.functional.cross_entropy(logits, batch["labels"])
        torch.testing.assert_close(objective(batch), expected, atol=1e-4, rtol=1e-4)
