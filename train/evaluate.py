"""Measures a model on the validation videos. Predictions are made as in scoring, with windows and their averages."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import windows
from common.tasks import TASKS
from common.windows import Windowing
from train.data.faces import FaceSet
from train.data.windows import Stretch, shown, stretches
from train.metrics import chance, measure
from train.models.scoring import ScoringModel

_BATCH = 256  # faces per call of the encoder, or of a head without windows
_WINDOWS = 8  # windows per call of a head


def encode(model: ScoringModel, faces: FaceSet, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features float32 [N, D] of the chosen faces; zeros for the others."""
    rows = np.flatnonzero(chosen)
    pieces = [model.features(faces.images(rows[i : i + _BATCH])) for i in range(0, len(rows), _BATCH)]
    features = np.zeros((len(faces), pieces[0].shape[1] if pieces else 0), np.float32)
    if pieces:
        features[rows] = np.concatenate(pieces)
    return features


def evaluate(model: ScoringModel, faces: FaceSet) -> dict[str, Any]:
    """Metrics by name over the annotated faces of the validation videos, with chance levels; empty if there are none.

    A task without annotated faces has no metrics, and a metric that is not defined is None. Annotated frames that are
    not joined to a face are not counted (`Join` says how many there are in all splits).
    """
    chosen = np.any(list(faces.validation.values()), axis=0)
    if not chosen.any():
        return {}
    features = encode(model, faces, chosen)
    found: dict[str, float | None] = {}
    frames: dict[str, int] = {}
    for name in model.heads:
        frames[name] = int((faces.validation[name] & faces.annotated(name)).sum())
        if frames[name]:
            measured = measured_head(model, name, features, faces)
            found |= {metric: None if math.isnan(value) else value for metric, value in measured.items()}
    by_chance = chance(faces.labels["expr"][faces.validation["expr"]], faces.labels["au"][faces.validation["au"]])
    return {**found, "chance": asdict(by_chance), "frames": frames}


def measured_head(model: ScoringModel, task: str, features: NDArray[np.float32], faces: FaceSet) -> dict[str, float]:
    """The metrics of the head of a task over its validation videos, from features float32 [N, D] of their faces."""
    rows = faces.validation[task] & faces.annotated(task)
    # Columns are in the order of `known`, which also numbers the targets. Outputs that the head lacks are 0.
    known = TASKS[task].known
    columns = [known.index(output) for output in model.heads[task].outputs]
    values = np.zeros((len(faces), len(known)))
    values[:, columns] = predict(model, task, features, faces, faces.validation[task])
    return measure(task, values[rows], faces.labels[task][rows])


def seen(faces: FaceSet, encoder: FaceSet | None) -> dict[str, dict[str, int]]:
    """By task, how many videos and labelled frames that validate it are of videos that trained the encoder.

    encoder: the same faces in the encoder's fold, whose training videos it has seen; None if it was trained on others.
    """
    trained = np.zeros(len(faces), bool)
    if encoder is not None:
        trained = np.isin(faces.video, np.unique(encoder.video[encoder.for_encoder()]))
    rows = {task: faces.validation[task] & faces.annotated(task) & trained for task in TASKS}
    return {
        "seen_by_encoder_videos": {task: len(np.unique(faces.video[each])) for task, each in rows.items()},
        "seen_by_encoder_frames": {task: int(each.sum()) for task, each in rows.items()},
    }


def predict(
    model: ScoringModel, task: str, features: NDArray[np.float32], faces: FaceSet, chosen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """float64 [N, K]: the predictions of `mien score` for the chosen faces (whole videos), NaN for the others."""
    head = model.heads[task]
    values = np.full((len(faces), len(head.outputs)), np.nan)
    if head.windowing is None:
        rows = np.flatnonzero(chosen)
        valid = np.ones((len(rows), 1), bool)
        values[rows] = _called(model, task, features[rows, None], valid, _BATCH)[:, 0]
        return values
    for stretch in stretches(faces, chosen, head.windowing):
        values[stretch.faces] = _over_windows(model, task, features, stretch, head.windowing)
    return values


def _over_windows(
    model: ScoringModel, task: str, features: NDArray[np.float32], stretch: Stretch, windowing: Windowing
) -> NDArray[np.float64]:
    """float64 [m, K]: the predictions for the stretch's faces."""
    seen = shown(stretch, windowing)
    inputs, valid = windows.cut(features[stretch.held], seen, windowing.window, windowing.stride)
    outputs = _called(model, task, inputs, valid, _WINDOWS)
    outputs[~valid] = 0
    averaged = windows.average(outputs, len(stretch.held), windowing.stride)
    return windows.at_frames(averaged, seen, stretch.places)


def _called(
    model: ScoringModel, task: str, inputs: NDArray[np.float32], valid: NDArray[np.bool_], size: int
) -> NDArray[np.float32]:
    """The head's predictions [n, w, K] for inputs [n, w, D], with `size` windows per call."""
    calls = [model.predict([task], inputs[i : i + size], valid[i : i + size]) for i in range(0, len(inputs), size)]
    return np.concatenate([call[task] for call in calls])
