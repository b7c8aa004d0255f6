from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from common.bundle.folder import Bundle
from common.bundle.manifest import BundleManifest
from common.cli import main
from common.errors import UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake.layout import Lake
from common.store.store import Store
from common.tasks import TASKS
from common.windows import Windowing
from train import job, loop, recipe
from train.data import faces as faces_
from train.data.crops import CropReader
from train.data.faces import FaceSet
from train.data.sources import DataOptions
from train.evaluate import encode, evaluate, predict
from train.finished import Finished
from train.metrics import expression_f1
from train.models.scoring import Head, load
from train.validation import Kept

MIEN = Path(sys.executable).parent / "mien"

pytestmark = pytest.mark.slow


SELECTED = (
    "finetune.validations_per_epoch=1",
    "finetune.select=best",
    "heads.temporal.validate_every=20",
    "heads.temporal.select=best",
)


@pytest.fixture(scope="module")
def trained(toy_lake: Path, toy_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    root = tmp_path_factory.mktemp("trained")
    chosen = recipe.load(toy_recipe, SELECTED)
    return job.run(chosen, Lake(str(toy_lake)), root / "bundle", root / "work"), root / "work"


def read(lake: Path, manifest: BundleManifest, data: DataOptions | None = None) -> FaceSet:
    return faces_.read(CropReader(Lake(str(lake)), manifest.preprocess, 32), data or DataOptions())


SHORT = ("mae.steps=2", "finetune.steps=2", "heads.temporal.steps=2")


@pytest.fixture(scope="module")
def short(toy_lake: Path, toy_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained for a few steps."""
    out = tmp_path_factory.mktemp("short") / "bundle"
    return job.run(recipe.load(toy_recipe, SHORT), Lake(str(toy_lake)), out)


def test_a_bundle_says_how_it_was_made_and_how_good_it_is(trained: tuple[Bundle, Path], toy_recipe: str) -> None:
    made, work = trained
    manifest = Bundle.open(made.path).manifest
    assert manifest == made.manifest
    assert manifest.recipe["finetune"]["steps"] == recipe.load(toy_recipe).finetune.steps
    assert manifest.recipe["precision"] == "float32"
    assert manifest.data["train_videos"] == 4
    assert manifest.data["validation_faces"] == 140
    assert set(manifest.heads["au"].thresholds or {}) == set(ACTION_UNITS)
    assert manifest.heads["va"].thresholds is None
    assert manifest.metrics["f1_action_units_tuned"] >= manifest.metrics["f1_action_units"]
    assert manifest.metrics["seen_by_encoder_videos"] == {"va": 0, "expr": 0, "au": 0}
    assert manifest.data["encoder_fold"] == 0
    assert manifest.data["labels"] == {"labels": 420, "joined": 420, "without_face": 0, "ambiguous": 0}
    assert manifest.metrics["frames"] == {"va": 140, "expr": 140, "au": 140}
    assert manifest.metrics["ccc_valence"] > 0.5
    assert manifest.metrics["f1_action_units"] > manifest.metrics["chance"]["action_unit_f1_all_ones"]
    assert manifest.data["faces"] == "faces/schema=1/ingest=i-toy/archive=toy"
    assert manifest.data["dataset"] == "toy"
    assert manifest.data["init_sha256"] is None
    assert (work / f"curves-{made.path.name}.png").is_file()
    assert (work / manifest.data["stages"]["mae"]["file"]).with_suffix(".png").is_file()
    assert list(manifest.data["stages"]) == ["mae", "finetune", "va", "expr", "au"]
    for stage, record in manifest.data["stages"].items():
        assert (work / record["file"]).is_file()
        log = (work / record["file"]).with_suffix(".jsonl")
        assert json.loads(log.read_text().splitlines()[0])["stage"] == stage


def test_the_score_of_the_selected_weights_is_what_evaluation_finds(trained: tuple[Bundle, Path]) -> None:
    manifest, work = trained[0].manifest, trained[1]
    metrics, stages = manifest.metrics, manifest.data["stages"]
    expected = {"examples": 280, "steps": 20, "step": 19, "by": None, "score": None}
    assert stages["mae"] == expected | {"file": stages["mae"]["file"]}
    assert stages["va"]["score"] == pytest.approx((metrics["ccc_valence"] + metrics["ccc_arousal"]) / 2)
    assert stages["expr"]["score"] == pytest.approx(metrics["f1_expression"])
    assert stages["au"]["score"] == pytest.approx(metrics["f1_action_units"])
    for stage in ("finetune", "va", "expr", "au"):
        lines = map(json.loads, (work / stages[stage]["file"]).with_suffix(".jsonl").read_text().splitlines())
        scores = {line["step"]: line["metrics"][stages[stage]["by"]] for line in lines if "metrics" in line}
        assert list(scores) == (
            [8, 17, 26, 34, 43, 52, 61, 69, 78, 87, 96, 104, 113, 119] if stage == "finetune" else [19, 39, 59]
        )
        assert stages[stage]["score"] == max(scores.values())
        assert stages[stage]["step"] == max(scores, key=scores.__getitem__)


def test_weights_are_not_selected_without_labelled_validation_videos(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    chosen = recipe.load(toy_recipe, (*SELECTED[2:], "data.validation=none"))
    with pytest.raises(
        UsageError, match=r"heads\.temporal cannot be validated, no face of a validation video has a label"
    ):
        job.run(chosen, Lake(str(toy_lake)), tmp_path / "bundle")


def test_another_seed_alone_makes_other_weights(short: Bundle, toy_lake: Path, toy_recipe: str, tmp_path: Path) -> None:
    other = job.run(recipe.load(toy_recipe, (*SHORT, "seed=1")), Lake(str(toy_lake)), tmp_path / "bundle")
    assert other.manifest.files.keys() == short.manifest.files.keys()
    for name, record in other.manifest.files.items():
        assert record.sha256 != short.manifest.files[name].sha256


def test_a_run_that_was_cut_off_goes_on_with_the_stage_that_it_was_in(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, *overrides: str, stop: str | None = None) -> tuple[list[str], Bundle | None]:
        """The stages that were trained (by nothing), and the bundle, if the run was not stopped in the stage `stop`."""
        trained = []

        def fit(name: str, *arguments: Any) -> Kept:
            if name == stop:
                raise KeyboardInterrupt
            trained.append(name)
            return Kept(0)

        monkeypatch.setattr(loop, "fit", fit)
        with contextlib.suppress(KeyboardInterrupt):
            return trained, job.run(recipe.load(toy_recipe, overrides), Lake(str(toy_lake)), tmp_path / out, force=True)
        return trained, None

    stages, whole = run("whole")
    assert stages == ["mae", "finetune", "va", "expr", "au"]
    assert run("cut", stop="expr") == (["mae", "finetune", "va"], None)
    stages, resumed = run("cut")
    assert stages == ["expr", "au"]
    assert whole is not None
    assert resumed is not None
    assert resumed.manifest.id == whole.manifest.id
    # only what follows from a changed setting is made again
    assert run("cut", "heads.temporal.tasks=[expr]", "heads.temporal.model.windowing.stride=10")[0] == ["expr"]
    assert run("cut", "heads.temporal.tasks=[expr]", "finetune.lr=0.1")[0] == ["finetune", "expr"]


def test_the_file_of_a_finished_stage_that_is_damaged_counts_for_nothing(tmp_path: Path) -> None:
    model, finished, file = torch.nn.Linear(3, 2), Finished(Store(str(tmp_path))), tmp_path / "mae-abc.safetensors"
    assert finished.restore("mae-abc", model) is None
    finished.keep("mae-abc", model, {"steps": 7})
    assert finished.restore("mae-abc", model) == {"steps": 7}
    assert not finished.restore("mae-other", model)
    file.write_bytes(file.read_bytes()[:-1])
    assert not finished.restore("mae-abc", model)
    finished.keep("mae-abc", model, {"steps": 8})
    assert finished.restore("mae-abc", model) == {"steps": 8}
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_of_a_model_with_another_shape_changes_no_weight(tmp_path: Path) -> None:
    finished = Finished(Store(str(tmp_path)))
    finished.keep("mae-abc", torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)), {})
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 5))
    before = copy.deepcopy(model.state_dict())
    assert not finished.restore("mae-abc", model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_predictions_are_those_of_a_loop_over_windows_written_out(trained: tuple[Bundle, Path], toy_lake: Path) -> None:
    manifest = trained[0].manifest
    faces = read(toy_lake, manifest)
    model = load(trained[0])
    chosen = faces.video == 5
    features = encode(model, faces, chosen)
    found = {task: predict(model, task, features, faces, chosen)[chosen] for task in TASKS}
    rows = features[chosen]
    total, count = {name: np.zeros((70, len(task.outputs))) for name, task in TASKS.items()}, np.zeros(70)
    for start in (0, 15, 30, 45, 60):
        piece = rows[start : start + 20]
        padded = np.zeros((1, 20, rows.shape[1]), np.float32)
        padded[0, : len(piece)] = piece
        outputs = model.predict(TASKS, padded, (np.arange(20) < len(piece))[None])
        count[start : start + 20] += 1
        for task in total:
            total[task][start : start + 20] += outputs[task][0, : len(piece)]
    for task in total:
        np.testing.assert_allclose(found[task], total[task] / count[:, None], atol=1e-5)


def test_weights_are_reproducible_and_independent_of_held_out_videos(
    toy_lake: Path, toy_recipe: str, short: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "lake"
    copy.mkdir()
    for path in filter(Path.is_file, toy_lake.rglob("*")):
        if "toy_5" not in path.name:
            target = copy / path.relative_to(toy_lake)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    made = job.run(recipe.load(toy_recipe, SHORT), Lake(str(copy)), tmp_path / "bundle")
    assert made.manifest.files == short.manifest.files
    assert made.manifest.metrics != short.manifest.metrics


def test_fine_tuning_can_start_from_the_encoder_of_another_run(
    trained: tuple[Bundle, Path], toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    options = ("data.train=toy_0", "data.validation=toy_4", "finetune.steps=3", "heads.temporal.steps=3")
    (start,) = trained[1].glob("mae-*.safetensors")
    lake = Lake(str(toy_lake))
    made = job.run(recipe.load(toy_recipe, (f"init={start}", *options)), lake, tmp_path / "bundle", tmp_path / "work")
    assert made.manifest.data["train_videos"] == 1
    assert made.manifest.metrics["frames"]["va"] == 70
    assert made.manifest.data["init_sha256"] == hashlib.sha256(start.read_bytes()).hexdigest()
    assert not list((tmp_path / "work").glob("mae-*"))
    # the bundle's own choice of videos, and another
    assert job.evaluate_bundle(made, lake, ())["frames"]["va"] == 70
    assert job.evaluate_bundle(made, lake, ("validation=toy_*",))["frames"]["va"] == 140
    bigger = recipe.load(toy_recipe, (f"init={start}", "encoder.depth=3"))
    with pytest.raises(UsageError, match="do not fit"):
        job.run(bigger, lake, tmp_path / "other", tmp_path / "work")
    absent = recipe.load(toy_recipe, (f"init={tmp_path / 'none'}",))
    with pytest.raises(UsageError, match="cannot be read"):
        job.run(absent, lake, tmp_path / "other", tmp_path / "work")


def test_evaluating_the_bundle_again_gives_the_metrics_that_it_states(
    trained: tuple[Bundle, Path], toy_lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["evaluate", str(trained[0].path), "--lake", str(toy_lake), "--json"])
    assert status == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    stated = trained[0].manifest.metrics
    assert found["ccc_valence"] == pytest.approx(stated["ccc_valence"], abs=1e-4)
    assert found["chance"] == stated["chance"]
    assert found["f1_action_units_tuned"] == pytest.approx(stated["f1_action_units_tuned"], abs=1e-4)
    assert found["seen_by_encoder_frames"] == stated["seen_by_encoder_frames"] == {"va": 0, "expr": 0, "au": 0}
    assert main(["evaluate", str(trained[0].path), "--lake", str(toy_lake), "validation=none"]) == 2
    assert "validation video" in capsys.readouterr().err
    assert main(["evaluate", str(trained[0].path), "--lake", str(toy_lake), "window=30"]) == 2
    assert "unknown key 'window'" in capsys.readouterr().err


def test_a_lake_without_labels_of_what_a_bundle_gives_is_told(
    short: Bundle, tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    face = {"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}
    labels = make_labels("a", 1, "validation", expression=["contempt"])  # no class of the task expr
    lake = make_lake(tmp_path, {"a": make_faces("a", [face])}, [labels])
    with pytest.raises(UsageError, match="has a validation label for va or expr or au, which the bundle gives"):
        job.evaluate_bundle(short, Lake(str(lake)), ())


def test_an_evaluation_is_told_as_a_table(short: Bundle, toy_lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(short.path), "--lake", str(toy_lake)]) == 0
    told = {name: figures for name, *figures in map(str.split, capsys.readouterr().out.splitlines()) if figures}
    assert told["ccc_valence"][0] == f"{short.manifest.metrics['ccc_valence']:.3f}"
    assert told["va:"][0] == "140"


def test_training_tells_its_metrics_once_and_last_where_card_and_curves_are(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "bundle")
    assert main(["train", toy_recipe, *SHORT, "--lake", str(toy_lake), "--out", out]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\nccc_valence ") == 1
    last = f"see {out}/MODEL_CARD.md; curves, pictures, logs for TensorBoard: {out}.train"
    assert captured.out.splitlines()[-1] == last
    assert "ccc_valence" not in captured.err
    stages = [json.loads(line)["name"] for line in captured.err.splitlines() if '"event": "progress"' in line]
    assert stages == ["faces", "mae", "finetune", "va", "expr", "au"]


def test_a_metric_that_is_not_defined_is_none_and_a_task_without_labels_has_none(short: Bundle, toy_lake: Path) -> None:
    faces = read(toy_lake, short.manifest)
    labels = faces.labels | {"au": np.full_like(faces.labels["au"], -1), "va": np.full_like(faces.labels["va"], 0.3)}

    class Constant:
        heads: ClassVar = {
            task: Head(nn.Identity(), outputs, Windowing(window=20, stride=15))
            for task, outputs in (("va", ("valence", "arousal")), ("expr", ("fear", "anger")), ("au", ACTION_UNITS))
        }

        def features(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), 1), np.float32)

        def predict(self, tasks: list[str], features: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
            shape = valid.shape
            outputs = {"va": np.full((*shape, 2), np.float32(0.3)), "au": np.zeros((*shape, 12), np.float32)}
            return outputs | {"expr": np.broadcast_to(np.array([0.7, 0.3], np.float32), (*shape, 2)).copy()}

    found = evaluate(Constant(), replace(faces, labels=labels))  # type: ignore[arg-type]
    assert found["ccc_valence"] is None
    assert found["frames"] == {"va": 140, "expr": 140, "au": 0}
    assert not [name for name in found if "au" in name or "action" in name]
    # the first output is what the head names: fear
    truth = faces.labels["expr"][faces.validation["expr"]]
    assert found["f1_expression"] == pytest.approx(expression_f1(np.full(140, EXPRESSIONS.index("fear")), truth))


def test_the_command_needs_no_compiler_and_prints_its_summary_and_nothing_else_on_stdout(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    extensions = tmp_path / "extensions"
    done = subprocess.run(
        [MIEN, "train", toy_recipe, *SHORT, "--lake", toy_lake, "--out", tmp_path / "bundle", "--json"],
        env=os.environ | {"PATH": "", "TORCH_EXTENSIONS_DIR": str(extensions), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["id"] == Bundle.open(tmp_path / "bundle").manifest.id
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle.train"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonesuch"], "no recipe 'nonesuch': name one of "),
        (["demo", "finetune.step=3"], "unknown key 'finetune.step': did you mean 'finetune.steps'?"),
        (["demo", "encoder.image=32"], "takes pictures of 1 channels and 32 px, preprocess makes 1 channels and 64 px"),
        (["demo", "encoder.kind=swin"], "'encoder.kind' should be clip or mini_xception or onnx or vit, not 'swin'"),
        (["demo", "encoder={depth: 3}"], "the key 'encoder.kind' is missing"),
        (["demo", "encoder=vit"], "should be a section with the kind of the encoder"),
        (["demo", "encoder.deep=3"], "unknown key 'encoder.deep': did you mean 'encoder.depth'?"),
        (["demo", "heads.temporal.model.kernels=3"], "did you mean 'heads.temporal.model.kernel'?"),
        (["demo", "heads.temporal.model.kind=rnn"], "model.kind' should be dfer_clip or linear or tcn_transformer"),
        (["demo", "heads.temporal.model={kind: linear, windowing: {window: 3}}"], "model.windowing' should be None"),
        (["demo", "heads.temporal.model={kind: dfer_clip}"], "should have a model of frames: dfer_clip judges clips"),
        (["demo", "heads.temporal.model.windowing.stride=121"], "stride 121 must not exceed window 120"),
        (["demo", "heads.temporal.tasks=[pain]"], "should be one of va, expr, au"),
        (["demo", "preprocess.crop=[40, 0, 88]"], "must lie inside the aligned crop"),
        (["demo", "name=My Model"], "'name' String should match"),
        (["demo", "heads.temporal.tasks=[va, va]"], "should name each task once"),
        (["demo", "preprocess.mean=[0.5]"], "must both hold a value for each channel"),
        (["demo", "preprocess.mean=[0, 0, 0]", "preprocess.std=[1, 1, 1]"], "must both hold a value for each"),
        (["demo"], "there is no lake at"),
        (["demo", "seed"], "'seed' sets no key: write key=value, such as seed=0"),
        (["demo", "--set", "seed=1"], "keys are written without --set: mien train RECIPE seed=1"),
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
    toy_lake: Path, toy_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.chdir(tmp_path)
    for out in (str(tmp_path), ".", "/"):
        assert main(["train", toy_recipe, "--lake", str(toy_lake), "--out", out]) == 2
        assert "would be overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_bundle_is_not_overwritten_unless_told(
    short: Bundle, toy_lake: Path, toy_recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", toy_recipe, *SHORT, "--lake", str(toy_lake), "--out", str(short.path)]) == 2
    assert f"{short.path} holds the bundle toy {short.manifest.id}: replace it with --force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "work", "sentence"),
    [
        ("bundle", "file/work", "cannot be written: File exists, name another with --work"),
        ("file/bundle", "work", "cannot be written: File exists, name another with --out"),
        ("bundle", "bundle", "name another with --work"),
        ("bundle", "bundle/work", "name another with --work"),
    ],
)
def test_folders_that_cannot_hold_the_result_are_told_of_before_anything_is_trained(
    out: str,
    work: str,
    sentence: str,
    toy_lake: Path,
    toy_recipe: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    options = ("--out", str(tmp_path / out), "--work", str(tmp_path / work))
    assert main(["train", toy_recipe, "--lake", str(toy_lake), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_store_that_refuses_is_told_of_before_anything_is_trained(
    s3_server: str, toy_lake: Path, toy_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", str(tmp_path / "bundle"), "--work", "s3://no-such-bucket/work")
    assert main(["train", toy_recipe, "--lake", str(toy_lake), *options]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "mien: there is no bucket s3://no-such-bucket: create it or correct the name"


def test_labels_that_no_face_joins_are_told_of_before_anything_is_trained(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    nobody = recipe.load(toy_recipe, ("data.train=none_*",))
    with pytest.raises(UsageError, match="has a training label for expr"):
        job.run(nobody, Lake(str(toy_lake)), tmp_path / "bundle", tmp_path / "work")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["faces"]


def test_an_encoder_whose_every_training_video_validates_a_task_is_refused(
    toy_recipe: str,
    tmp_path: Path,
    make_lake: Callable,
    make_faces: Callable,
    make_labels: Callable,
    crop_jpeg: Callable,
) -> None:
    face = {"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.zeros((32, 32, 3), np.uint8))}
    labels = make_labels("a", 1, "train", expression=["fear"], split_va=["validation"])
    lake = make_lake(tmp_path / "lake", {"a": make_faces("a", [face])}, [labels])
    with pytest.raises(UsageError, match="every video with a training label for expr also validates a task"):
        job.run(recipe.load(toy_recipe, ("heads.temporal.tasks=[expr]",)), Lake(str(lake)), tmp_path / "bundle")


def test_the_demo_recipe_is_valid_and_meant_for_a_demo() -> None:
    demo = recipe.load("demo")
    assert demo.intended_use == "demo"
    assert {task: stage.model.windowing for task, stage in demo.stages.items()} == dict.fromkeys(
        TASKS, Windowing(fps=30, window=120, stride=80, gaps="repeat")
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in demo.encoder.build().parameters()) < 1e6


def test_evaluation_without_validation_videos_is_empty(toy_lake: Path, trained: tuple[Bundle, Path]) -> None:
    data = DataOptions(validation="none")
    faces = read(toy_lake, trained[0].manifest, data)
    found: dict[str, Any] = evaluate(load(trained[0]), faces)
    assert found == {}
