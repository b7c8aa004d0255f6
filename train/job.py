"""`mien train`: makes a bundle from a lake's faces and labels. A study does so for each of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from common import config, environment, log
from common.bundle import folder
from common.bundle.folder import Bundle
from common.bundle.manifest import MANIFEST, BundleManifest
from common.errors import UsageError
from common.lake.layout import Lake
from common.tasks import TASKS
from train import curves, loop, processes
from train import table as tables
from train.data import faces as faces_
from train.data import training
from train.data.crops import CropReader
from train.data.faces import FaceSet
from train.data.sources import DataOptions, Selection
from train.data.training import TrainingData
from train.evaluate import evaluate, evaluate_clips, predictions
from train.models import ranks
from train.models.options import part, weights_file
from train.models.registry import HEADS
from train.models.scoring import ScoringModel, load
from train.places import Places
from train.recipe import Recipe
from train.report import Thresholds, report, seen, tuned
from train.stage_options import ClipCut
from train.stages import Stages, Trained
from train.study import FILE as STUDY
from train.study import Run, Study
from train.table import Table


def run(recipe: Recipe, lake: Lake, out: Path, work: str | Path | None = None, *, force: bool = False) -> Bundle:
    """Trains the recipe and writes the bundle `out`; checkpoints and each stage's result go to `work`, a folder or URL.

    A stage whose result is there already, made by the same settings from the same data, is not run again. `work` is
    `<out>.train` unless named. Raises UsageError for a lake without the faces or labels that it takes, for folders that
    cannot be written, for a bundle that is in `out` unless `force` replaces it, and for an `init` of another kind;
    StoreError for a `work` that cannot be written.
    """
    return _run(recipe, lake, Places.named(out, work), force)


def _run(recipe: Recipe, lake: Lake, places: Places, force: bool) -> Bundle:
    places.check_out()
    if not force:
        folder.refuse_to_replace(places.out, lake)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = training.read(recipe, lake, places.work)
    precision = loop.resolve_precision(recipe.precision, device)
    alone = int(environment.WORLD_SIZE.get() or 1) == 1
    session = loop.Session(
        recipe.seed,
        0 if alone else recipe.zero,  # one process has nothing to share out
        precision,
        device,
        places.work,
        places.store,
        recipe.checkpoints,
        recipe.compile,
    )
    stages = Stages(recipe, data, session)
    places.check_work()
    with processes.process_group():
        processes.check_same("versions of mien", common.__version__)
        processes.check_same("recipes", config.digest(recipe))
        processes.check_same("faces", data.faces.crops.digest)
        trained = stages.run()
        if ranks.rank() == 0:
            _finish(recipe, places.out, session, data, trained)
    return Bundle.open(places.out)


def _finish(recipe: Recipe, out: Path, session: loop.Session, data: TrainingData, trained: Trained) -> None:
    """Measures what was trained, draws the curves and writes the bundle."""
    model = ScoringModel(trained.encoder, trained.heads, recipe.preprocess, session.device)
    metrics, thresholds = _measured(model, data, recipe)
    if "confusion" in metrics:
        draw_confusion(metrics, session.work / f"confusion-{out.name}.png")
    if metrics:
        metrics |= seen(data.faces, data.encoder if training.encoder_learns(recipe, data) else None)
    curves.draw(session.work / f"curves-{out.name}.png", trained.records)
    _write(out, recipe, session.precision, data, trained, metrics, thresholds)


def _measured(model: ScoringModel, data: TrainingData, recipe: Recipe) -> tuple[dict[str, Any], Thresholds]:
    """The metrics of a model that was just trained, and the thresholds tuned for it."""
    if recipe.clips is not None:
        return evaluate_clips(model, data.faces, recipe.clips.cut), {}
    values = predictions(model, data.faces)
    thresholds = tuned(values, data.faces, {task: head.outputs for task, head in model.heads.items()})
    return report(values, data.faces, thresholds), thresholds


def evaluate_bundle(made: Bundle, lake: Lake, overrides: Sequence[str]) -> dict[str, Any]:
    """Metrics of a bundle on a lake's validation videos: those of its recipe, but for `overrides`, keys of `Selection`.

    Raises UsageError where the lake has none.
    """
    manifest = made.manifest
    stated = manifest.recipe.get("data", {})
    selection = config.load(
        Selection, None, overrides, {key: stated[key] for key in Selection.model_fields if key in stated}
    )
    reader = CropReader(lake, manifest.preprocess, manifest.crop.size)
    faces = faces_.read(reader, DataOptions(**selection.model_dump(), train=""))  # "" is no video's name
    model = load(made, "cuda" if torch.cuda.is_available() else "cpu")
    where = f"no face of {faces.source} in the lake {lake.url}"
    if any(HEADS[head.kind].of_clips for head in manifest.heads.values()):
        metrics = evaluate_clips(model, faces, ClipCut(**(manifest.recipe.get("clips") or {}).get("cut", {})))
        if not metrics:
            raise UsageError(f"{where} is of a validation clip with an expression that the bundle knows")
        return metrics | seen(faces, _encoder_of(manifest, reader, faces))
    thresholds = {task: head.thresholds for task, head in manifest.heads.items() if head.thresholds}
    metrics = evaluate(model, faces, thresholds)
    if not metrics:
        raise UsageError(f"{where} belongs to a validation video")
    if not any(metrics["frames"].values()):
        raise UsageError(
            f"{where} has a validation label for {' or '.join(manifest.heads)}, which the bundle gives: name another "
            f"dataset than {faces.origin['dataset']}"
        )
    return metrics | seen(faces, _encoder_of(manifest, reader, faces))


def draw_confusion(metrics: dict[str, Any], out: Path) -> None:
    """Draws which classes a model of clips confuses. Raises UsageError for metrics of another model."""
    from train import confusion_picture  # matplotlib takes long to import

    if "confusion" not in metrics:
        raise UsageError("--picture draws the confusion of a model of clips, and the bundle judges single frames")
    confusion_picture.draw(metrics, out)


def run_study(study: Study, lake: Lake, out: Path, work: str | Path | None = None, *, force: bool = False) -> Table:
    """Trains the study's runs, each to the bundle `<out>/<run>`; writes the table of all into `out`.

    A run whose bundle is there is not trained again. All share the folder or URL `work`, so a stage that several of
    them have in common is trained once. Raises UsageError for a bundle that was made by other settings, unless `force`.
    """
    places = Places.named(out, work)
    out = places.out
    with processes.process_group():
        missing = [each for each in study.runs() if not _is_made(each, out, force)]
        for number, each in enumerate(missing, 1):
            log.get("train").info("run of a study", run=each.name, number=number, of=len(missing))
            _run(each.recipe(), lake, replace(places, out=out / each.name), force)
            if number < len(missing):
                _publish(study, out)
        return _publish(study, out)


def _publish(study: Study, out: Path) -> Table:
    """Writes the study and its table beside its bundles."""
    if ranks.rank() == 0:
        (out / STUDY).write_text(study.model_dump_json(indent=2) + "\n")
    return tabulate(study, out)


def tabulate(study: Study, out: Path, lake: Lake | None = None) -> Table:
    """Writes the table of the study's bundles in `out` as text, Markdown and picture beside them, and returns it.

    Its metrics are those measured after training, or measured now on `lake`.
    """
    from train import table_picture  # matplotlib takes long to import

    made = {each: Bundle.open(str(out / each.name)) for each in study.runs() if (out / each.name / MANIFEST).is_file()}
    table = tables.made(
        study,
        {
            each: bundle.manifest.metrics if lake is None else evaluate_bundle(bundle, lake, ())
            for each, bundle in made.items()
        },
    )
    if ranks.rank() == 0:
        (out / "table.txt").write_text(table.as_text() + "\n")
        (out / "table.md").write_text(table.as_markdown())
        table_picture.draw(table, out / "table.png")
    return table


def _is_made(each: Run, out: Path, force: bool) -> bool:
    """Whether the run's bundle is in `out`. Raises UsageError for one of other settings, unless `force`."""
    made = out / each.name
    if not (made / MANIFEST).is_file():
        return False
    stated = Bundle.open(str(made)).manifest.recipe
    wanted = each.recipe().model_dump(mode="json", exclude={"checkpoints"})
    if all(stated.get(key) == value for key, value in wanted.items() if key != "precision"):
        return True
    if force:
        return False
    raise UsageError(
        f"the bundle {made} was trained with other settings: name another --out, or replace it with --force"
    )


def _encoder_of(manifest: BundleManifest, reader: CropReader, faces: FaceSet) -> FaceSet | None:
    """The same faces as the bundle's encoder was trained on them; None if it was not trained on this set of faces."""
    fold = manifest.data.get("encoder_fold")
    here = (faces.source, faces.origin["dataset"])
    if fold is None or (manifest.data["faces"], manifest.data["dataset"]) != tuple(map(str, here)):
        return None
    stated = {key: manifest.recipe["data"][key] for key in ("train", "validation")}
    source = {"dataset": here[1], "archive": here[0]["archive"], "ingest": here[0]["ingest"]}
    return faces_.read(reader, DataOptions(**source, **stated, fold=fold))


def _write(
    out: Path,
    recipe: Recipe,
    precision: str,
    data: TrainingData,
    trained: Trained,
    metrics: dict[str, Any],
    thresholds: Thresholds,
) -> Bundle:
    faces = data.faces
    counts = {
        f"{split}_{what}": int(number)
        for split, members in (("train", faces.train), ("validation", faces.validation))
        for what, number in (
            ("faces", np.any(list(members.values()), axis=0).sum()),
            ("videos", len(np.unique(faces.video[np.any(list(members.values()), axis=0)]))),
        )
    }
    manifest = {
        "name": recipe.name,
        "encoder": part(recipe.encoder, "encoder"),
        "preprocess": recipe.preprocess.model_dump(),
        "crop": recipe.crop.model_dump(),
        "heads": {
            task: part(trained.options[task], task)
            | {"outputs": head.outputs, "threshold": TASKS[task].threshold, "thresholds": thresholds.get(task)}
            for task, head in trained.heads.items()
        },
        "recipe": recipe.model_dump(mode="json", exclude={"checkpoints"}) | {"precision": precision},
        "data": {
            **faces.origin,
            **counts,
            "withheld_videos": len(data.encoder.withheld),
            "labels": asdict(faces.join),
            "encoder_fold": data.encoder.fold if training.encoder_learns(recipe, data) else None,
            "pretraining_faces": len(data.pretraining) if data.pretraining else None,
            "init_sha256": trained.init,
            "stages": trained.records,
        },
        "metrics": metrics,
        "code_version": common.__version__,
        "licence": recipe.licence,
        "intended_use": recipe.intended_use,
    }
    networks = {"encoder": trained.encoder, **{task: head.network for task, head in trained.heads.items()}}
    return folder.write(out, manifest, {weights_file(name): network.state_dict() for name, network in networks.items()})
