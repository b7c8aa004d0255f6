from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.bundle import Bundle
from common.cli import main
from common.errors import UsageError
from common.lake import Lake
from train import job, recipe
from train.data import faces as faces_
from train.evaluate import encode, evaluate, predict
from train.models import load
from train.recipe import DataOptions

MIEN = Path(sys.executable).parent / "mien"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(toy_lake: Path, toy_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    root = tmp_path_factory.mktemp("trained")
    return job.run(recipe.load(toy_recipe), Lake(str(toy_lake)), root / "bundle", root / "work"), root / "work"


def test_a_bundle_says_how_it_was_made_and_how_good_it_is(trained: tuple[Bundle, Path], toy_recipe: str) -> None:
    made, work = trained
    manifest = Bundle.open(made.path).manifest
    assert manifest == made.manifest
    assert manifest.recipe["finetune"]["steps"] == recipe.load(toy_recipe).finetune.steps
    assert manifest.recipe["precision"] == "float32"
    assert manifest.data["train_videos"] == 4
    assert manifest.data["validation_faces"] == 140
    assert manifest.data["labels"] == {"labels": 420, "joined": 420, "without_face": 0, "ambiguous": 0}
    assert manifest.metrics["frames"] == {"va": 140, "expr": 140, "au": 140}
    assert manifest.metrics["ccc_valence"] > 0.5
    assert manifest.metrics["f1_action_units"] > manifest.metrics["chance"]["action_unit_f1_all_ones"]
    assert json.loads((work / "result.json").read_text()) == manifest.metrics
    stages = [json.loads(line)["stage"] for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["mae", "finetune", "va", "expr", "au"]


def test_the_same_recipe_and_lake_make_the_same_weights(
    trained: tuple[Bundle, Path], toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    again = job.run(recipe.load(toy_recipe), Lake(str(toy_lake)), tmp_path / "bundle", tmp_path / "work")
    assert again.manifest.files == trained[0].manifest.files
    other = job.run(
        recipe.load(toy_recipe, ("seed=1", "finetune.steps=2", "temporal.steps=2")),
        Lake(str(toy_lake)),
        tmp_path / "bundle",
        tmp_path / "work",
    )
    assert other.manifest.id != again.manifest.id


def test_predictions_are_those_of_a_loop_over_windows_written_out(trained: tuple[Bundle, Path], toy_lake: Path) -> None:
    manifest = trained[0].manifest
    data = DataOptions(window=manifest.window, stride=manifest.stride)
    faces = faces_.read(Lake(str(toy_lake)), data, manifest.preprocess, 32)
    model = load(trained[0])
    chosen = faces.video == 5
    features = encode(model, faces, chosen)
    from train.data.windows import sequences

    (sequence,) = sequences(faces, chosen, data)
    found = predict(model, features, sequence, data)
    rows = features[chosen]
    total, count = {task: np.zeros((70, k)) for task, k in (("va", 2), ("expr", 8), ("au", 12))}, np.zeros(70)
    for start in (0, 15, 30, 45, 60):
        piece = rows[start : start + 20]
        padded = np.zeros((1, 20, rows.shape[1]), np.float32)
        padded[0, : len(piece)] = piece
        outputs = model.heads(padded, (np.arange(20) < len(piece))[None])
        count[start : start + 20] += 1
        for task in total:
            total[task][start : start + 20] += outputs[task][0, : len(piece)]
    for task in total:
        np.testing.assert_allclose(found[task], total[task] / count[:, None], atol=1e-5)


def test_held_out_videos_leave_no_trace_in_the_weights(
    toy_lake: Path, toy_recipe: str, trained: tuple[Bundle, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "lake"
    copy.mkdir()
    for path in toy_lake.rglob("*.parquet"):
        if "toy_5" not in path.name:
            target = copy / path.relative_to(toy_lake)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    made = job.run(recipe.load(toy_recipe), Lake(str(copy)), tmp_path / "bundle", tmp_path / "work")
    assert made.manifest.files == trained[0].manifest.files
    assert made.manifest.metrics != trained[0].manifest.metrics


def test_fine_tuning_can_start_from_the_encoder_of_another_run(
    trained: tuple[Bundle, Path], toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    options = ("data.train=toy_0", "data.validation=toy_4", "finetune.steps=3", "temporal.steps=3")
    start = trained[1] / job.ENCODER_FILE
    lake = Lake(str(toy_lake))
    made = job.run(recipe.load(toy_recipe, (f"init={start}", *options)), lake, tmp_path / "bundle", tmp_path / "work")
    assert made.manifest.data["train_videos"] == 1
    assert made.manifest.metrics["frames"]["va"] == 70
    assert not (tmp_path / "work" / job.ENCODER_FILE).exists()
    lines = (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["stage"] == "finetune"
    bigger = recipe.load(toy_recipe, (f"init={start}", "encoder.depth=3"))
    with pytest.raises(UsageError, match="do not fit"):
        job.run(bigger, lake, tmp_path / "bundle", tmp_path / "work")
    absent = recipe.load(toy_recipe, (f"init={tmp_path / 'none'}",))
    with pytest.raises(UsageError, match="cannot be read"):
        job.run(absent, lake, tmp_path / "bundle", tmp_path / "work")


def test_evaluating_the_bundle_again_gives_the_metrics_that_it_states(
    trained: tuple[Bundle, Path], toy_lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["evaluate", str(trained[0].path), "--lake", str(toy_lake), "--json"])
    assert status == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    stated = trained[0].manifest.metrics
    assert found["ccc_valence"] == pytest.approx(stated["ccc_valence"], abs=1e-4)
    assert found["chance"] == stated["chance"]
    assert main(["evaluate", str(trained[0].path), "--lake", str(toy_lake), "validation=none"]) == 2
    assert "validation video" in capsys.readouterr().err


def test_the_command_prints_its_summary_last_and_nothing_else_on_stdout(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    short = ("mae.steps=2", "finetune.steps=2", "temporal.steps=2")
    done = subprocess.run(
        [MIEN, "train", toy_recipe, *short, "--lake", toy_lake, "--out", tmp_path / "bundle", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["id"] == Bundle.open(tmp_path / "bundle").manifest.id
    assert (tmp_path / "bundle.train" / "metrics.jsonl").exists()
    assert not {path.name for path in tmp_path.iterdir()} - {"bundle", "bundle.train"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonesuch"], "no recipe 'nonesuch': name one of demo"),
        (["demo", "finetune.step=3"], "unknown key 'finetune.step': did you mean 'finetune.steps'?"),
        (["demo", "encoder.dim=64"], "temporal.model.features must be encoder.dim"),
        (["demo", "preprocess.crop=[40, 0, 88]"], "must lie inside the aligned crop"),
        (["demo"], "run `mien label` first"),
    ],
)
def test_a_mistake_is_one_sentence_with_status_2_and_nothing_is_written(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "--lake", str(tmp_path / "lake"), "--out", str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_not_overwritten(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["train", toy_recipe, "--lake", str(toy_lake), "--out", str(tmp_path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_work_folder_that_cannot_be_made_is_told_of_before_anything_is_trained(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out, work = str(tmp_path / "bundle"), str(tmp_path / "file" / "work")
    assert main(["train", toy_recipe, "--lake", str(toy_lake), "--out", out, "--work", work]) == 2
    assert "name another with --work" in capsys.readouterr().err


def test_labels_that_no_face_joins_are_told_of_before_anything_is_trained(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    nobody = recipe.load(toy_recipe, ("data.train=none_*",))
    with pytest.raises(UsageError, match="has a training label for expr"):
        job.run(nobody, Lake(str(toy_lake)), tmp_path / "bundle", tmp_path / "work")
    assert not list(tmp_path.iterdir())


def test_the_demo_recipe_is_valid_and_meant_for_a_demo() -> None:
    demo = recipe.load("demo")
    assert demo.intended_use == "demo"
    assert (demo.data.window, demo.data.stride) == (300, 200)
    with torch.device("meta"):
        from train.models.vit import Encoder

        assert sum(p.numel() for p in Encoder(demo.encoder).parameters()) < 1e6


def test_evaluation_without_validation_videos_is_empty(toy_lake: Path, trained: tuple[Bundle, Path]) -> None:
    data = DataOptions(validation="none", window=20, stride=15)
    faces = faces_.read(Lake(str(toy_lake)), data, trained[0].manifest.preprocess, 32)
    found: dict[str, Any] = evaluate(load(trained[0]), faces, data)
    assert found == {}
