"""`mien train`: a lake's faces and labels to a bundle. Every stage of a recipe, one after the other, in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import common
from common import bundle, config, log
from common.bundle import Bundle
from common.errors import UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake import Lake
from train import loop, tasks
from train.data import faces as faces_
from train.data.augment import augment
from train.data.faces import FaceSet
from train.data.order import batch_indices
from train.data.windows import training_windows
from train.evaluate import encode, evaluate
from train.losses import NOT_ANNOTATED
from train.metrics import THRESHOLD
from train.models import ScoringModel, load
from train.models.vit import Encoder
from train.recipe import AugmentOptions, DataOptions, Recipe, StageOptions

ENCODER_FILE = "mae-encoder.safetensors"
"""In the work folder: the pretrained encoder, which another run can start from (`init`)."""
LOG_FILE = "metrics.jsonl"
"""In the work folder: a line of loss and learning rate now and then."""


def run(recipe: Recipe, lake: Lake, out: Path, work: Path) -> Bundle:
    """Trains the recipe and writes the bundle `out`; log and pretrained encoder go to the folder `work`.

    Raises UsageError for a lake without the faces or labels that it takes, and for an `out` or `init` of another kind.
    """
    bundle.check_destination(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    faces = faces_.read(lake, recipe.data, recipe.preprocess, recipe.crop.size)
    _check(recipe, faces, lake)
    torch.manual_seed(recipe.seed)
    encoder = Encoder(recipe.encoder)
    if recipe.init is not None:
        _start_from(encoder, recipe.init)
    _open(work)
    session = loop.Session(
        recipe.seed, recipe.zero, loop.resolve_precision(recipe.precision, device), device, work / LOG_FILE
    )
    with loop.process_group():
        if recipe.mae is not None and recipe.init is None:
            encoder = _pretrain(recipe, faces, session)
            save_file(_state(encoder), work / ENCODER_FILE)
        _finetune(recipe, encoder, faces, session)
        heads = _temporal(recipe, encoder, faces, session)
    model = ScoringModel(encoder, {name: task.model for name, task in heads.items()}, recipe.preprocess, device)
    metrics = evaluate(model, faces, recipe.data)
    (work / "result.json").write_text(json.dumps(metrics, indent=2) + "\n")
    log.get("train").info("evaluated", **{key: value for key, value in metrics.items() if isinstance(value, float)})
    return _write(out, recipe, session.precision, faces, encoder, heads, metrics)


def evaluate_bundle(made: Bundle, lake: Lake, overrides: Sequence[str]) -> dict[str, Any]:
    """Metrics of a bundle on a lake's validation videos; `overrides` are keys of `DataOptions`.

    Raises UsageError where the lake has none.
    """
    manifest = made.manifest
    windowing = {"fps": manifest.fps, "window": manifest.window, "stride": manifest.stride, "gaps": manifest.gaps}
    data = config.load(DataOptions, None, overrides, windowing)
    faces = faces_.read(lake, data, manifest.preprocess, manifest.crop.size)
    metrics = evaluate(load(made, "cuda" if torch.cuda.is_available() else "cpu"), faces, data)
    if not metrics:
        raise UsageError(f"no face of {faces.source} in the lake {lake.url} belongs to a validation video")
    return metrics


def _open(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
        (work / LOG_FILE).write_text("")
    except OSError as error:
        raise UsageError(
            f"the work folder {work} cannot be written: {error.strerror}, name another with --work"
        ) from None


def _check(recipe: Recipe, faces: FaceSet, lake: Lake) -> None:
    for task in dict.fromkeys(("expr", *recipe.temporal.tasks)):
        if not (faces.train[task] & faces.annotated(task)).any():
            raise UsageError(
                f"no face of {faces.source} in the lake {lake.url} has a training label for {task}: check that the "
                f"labelled videos ({recipe.data.train}) are ingested under the names that the labels have"
            )


def _start_from(encoder: Encoder, file: Path) -> None:
    try:
        encoder.load_state_dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise UsageError(f"init: the weights {file} cannot be read: {error}") from None
    except RuntimeError as error:
        raise UsageError(f"init: the weights {file} do not fit the recipe's encoder: {error}") from None


def _pretrain(recipe: Recipe, faces: FaceSet, session: loop.Session) -> Encoder:
    assert recipe.mae is not None
    rows = np.flatnonzero(faces.pretraining())
    task = tasks.MaePretrain(recipe)
    loop.fit("mae", task, _pictures("mae", faces, rows, recipe.mae, recipe.mae.augment, session), recipe.mae, session)
    return task.model.encoder


def _finetune(recipe: Recipe, encoder: Encoder, faces: FaceSet, session: loop.Session) -> None:
    stage = recipe.finetune
    rows = np.flatnonzero(faces.train["expr"] & faces.annotated("expr"))
    pictures = _pictures("finetune", faces, rows, stage, stage.augment, session)
    loop.fit("finetune", tasks.ExpressionFinetune(recipe, encoder), pictures, stage, session)


def _pictures(
    name: str,
    faces: FaceSet,
    rows: np.ndarray,
    stage: StageOptions,
    changes: AugmentOptions,
    session: loop.Session,
) -> Callable[[int], tasks.Batch]:
    def batch_at(step: int) -> tasks.Batch:
        chosen = rows[batch_indices(len(rows), stage.batch, step, session.seed)]
        rng = np.random.default_rng(loop.step_seed(session.seed, name, step))
        images = augment(faces.images[chosen], changes, rng)
        return {"images": torch.from_numpy(images), "labels": torch.from_numpy(faces.labels["expr"][chosen])}

    return batch_at


def _temporal(recipe: Recipe, encoder: Encoder, faces: FaceSet, session: loop.Session) -> dict[str, tasks.TemporalTask]:
    stage = recipe.temporal
    wanted = np.any([faces.train[task] for task in stage.tasks], axis=0)
    model = ScoringModel(encoder, {}, recipe.preprocess, session.device, session.precision)
    features = torch.from_numpy(encode(model, faces, wanted))
    trained: dict[str, tasks.TemporalTask] = {}
    for name in stage.tasks:
        torch.manual_seed(recipe.seed)
        task = tasks.TEMPORAL[name](stage.model, stage.noise)
        loop.fit(name, task, _windows(name, faces, features, recipe), stage, session)
        trained[name] = task
    return trained


def _windows(name: str, faces: FaceSet, features: torch.Tensor, recipe: Recipe) -> Callable[[int], tasks.Batch]:
    cut = training_windows(faces, faces.train[name], recipe.data)
    rows, valid, labelled = (torch.from_numpy(each) for each in (cut.rows, cut.valid, cut.labelled))
    labels = torch.from_numpy(faces.labels[name])
    nothing = torch.tensor(float("nan") if name == "va" else NOT_ANNOTATED, dtype=labels.dtype)

    def batch_at(step: int) -> tasks.Batch:
        chosen = torch.from_numpy(batch_indices(len(rows), recipe.temporal.batch, step, recipe.seed))
        at = rows[chosen]
        taught = labelled[chosen].reshape(*at.shape, *(1,) * (labels.ndim - 1))
        return {"features": features[at], "valid": valid[chosen], "labels": torch.where(taught, labels[at], nothing)}

    return batch_at


def _write(
    out: Path,
    recipe: Recipe,
    precision: str,
    faces: FaceSet,
    encoder: Encoder,
    heads: dict[str, tasks.TemporalTask],
    metrics: dict[str, Any],
) -> Bundle:
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
        "tasks": recipe.temporal.tasks,
        "encoder": {"kind": "vit", "options": recipe.encoder.model_dump(mode="json"), "file": "encoder.safetensors"},
        "preprocess": recipe.preprocess.model_dump(),
        "crop": recipe.crop.model_dump(),
        "temporal": {
            name: {"options": recipe.temporal.model.model_dump(mode="json"), "file": f"{name}.safetensors"}
            for name in heads
        },
        "window": recipe.data.window,
        "stride": recipe.data.stride,
        "fps": recipe.data.fps,
        "gaps": recipe.data.gaps,
        "classes": {name: each for name, each in (("expr", EXPRESSIONS), ("au", ACTION_UNITS)) if name in heads},
        "thresholds": {"au": THRESHOLD} if "au" in heads else {},
        "recipe": recipe.model_dump(mode="json") | {"precision": precision},
        "data": {"faces": str(faces.source), **counts, "labels": faces.join.__dict__},
        "metrics": metrics,
        "code_version": common.__version__,
        "licence": recipe.licence,
        "intended_use": recipe.intended_use,
    }
    weights = {"encoder.safetensors": _state(encoder)}
    weights |= {f"{name}.safetensors": _state(task.model) for name, task in heads.items()}
    return bundle.write(out, manifest, weights)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
