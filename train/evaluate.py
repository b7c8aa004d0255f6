"""Measures a model on the validation videos. Predictions are made as in scoring, with windows and their averages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import windows
from common.tasks import TASKS
from common.windows import Windowing
from train import clip_report
from train.data.ahead import ahead, threads
from train.data.clips import Clips
from train.data.clips import cut as cut_clips
from train.data.faces import FaceSet
from train.data.windows import Stretch, shown, stretches
from train.metrics import measure
from train.models.scoring import ScoringModel
from train.report import Thresholds, report
from train.stage_options import ClipCut

_BATCH = 256  # faces per call of the encoder, or of a head without windows
_WINDOWS = 8  # windows per call of a head


def encode(model: ScoringModel, faces: FaceSet, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features float32 [N, D] of the chosen faces; zeros for the others."""
    rows = np.flatnonzero(chosen)
    batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    features = np.zeros((len(faces), 0), np.float32)
    for batch, images in zip(batches, ahead(faces.images, batches, threads()), strict=True):
        found = model.features(images)
        if not features.shape[1]:
            features = np.zeros((len(faces), found.shape[1]), np.float32)
        features[batch] = found
    return features


def evaluate(model: ScoringModel, faces: FaceSet, thresholds: Thresholds | None = None) -> dict[str, Any]:
    """`train.report` of the model's predictions for the validation videos; empty if there are none."""
    return report(predictions(model, faces), faces, thresholds or {})


def evaluate_clips(model: ScoringModel, faces: FaceSet, options: ClipCut) -> dict[str, Any]:
    """`train.clip_report` of the validation videos, for a model with a head of clips; empty without clips."""
    classes = model.heads["expr"].outputs
    found = cut_clips(faces, classes, options).of(faces.validation["expr"])
    if not len(found):
        return {}
    return clip_report.report(clip_values(model, faces, found), found.labels, faces.video[found.first], classes)


def predictions(model: ScoringModel, faces: FaceSet) -> dict[str, NDArray[np.float64]]:
    """`head_values` by task; empty if there are no validation videos."""
    chosen = np.any(list(faces.validation.values()), axis=0)
    if not chosen.any():
        return {}
    features = encode(model, faces, chosen)
    return {name: head_values(model, name, features, faces) for name in model.heads}


def measured_head(model: ScoringModel, task: str, features: NDArray[np.float32], faces: FaceSet) -> dict[str, float]:
    """The metrics of the head of a task over its validation videos, from features float32 [N, D] of their faces."""
    rows = faces.validation[task] & faces.annotated(task)
    return measure(task, head_values(model, task, features, faces)[rows], faces.labels[task][rows])


def clip_values(model: ScoringModel, faces: FaceSet, clips: Clips) -> NDArray[np.float64]:
    """float64 [n, K]: the expression of each clip, from the middle frames of its segments, in the head's own order."""
    head = model.heads["expr"]
    assert head.windowing is not None
    rows = clips.centres(head.windowing.window)
    chosen = np.zeros(len(faces), bool)
    chosen[rows] = True
    features = encode(model, faces, chosen)
    return _called(model, "expr", features[rows], np.ones(rows.shape, bool), _WINDOWS)[:, 0].astype(np.float64)


def head_values(model: ScoringModel, task: str, features: NDArray[np.float32], faces: FaceSet) -> NDArray[np.float64]:
    """float64 [N, K]: the predictions for the faces of the task's validation videos, zeros for the others.

    Columns are in the order of `known`, which also numbers the targets. Outputs that the head lacks are 0.
    """
    known, chosen = TASKS[task].known, faces.validation[task]
    columns = np.array([known.index(output) for output in model.heads[task].outputs])
    values = np.zeros((len(faces), len(known)))
    if chosen.any():
        values[np.ix_(np.flatnonzero(chosen), columns)] = predict(model, task, features, faces, chosen)[chosen]
    return values


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
