"""How good a model is on a split: the faces go the way of scoring, windows, overlap average and all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import windows
from common.labels import ACTION_UNITS, EXPRESSIONS, VALENCE_AROUSAL
from train.data.faces import FaceSet
from train.data.windows import Stretch, shown, stretches
from train.metrics import chance
from train.models import ScoringModel
from train.objectives import TEMPORAL
from train.recipe import DataOptions

NAMES: dict[str, tuple[str, ...]] = {"va": VALENCE_AROUSAL, "expr": EXPRESSIONS, "au": ACTION_UNITS}
"""By task, what the columns of labels are."""
_BATCH = 256  # faces a call of the encoder
_WINDOWS = 8  # windows a call of the heads


def encode(model: ScoringModel, faces: FaceSet, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features float32 [N, D] of the chosen faces; zeros for the others."""
    rows = np.flatnonzero(chosen)
    pieces = [model.features(faces.images(rows[i : i + _BATCH])) for i in range(0, len(rows), _BATCH)]
    features = np.zeros((len(faces), pieces[0].shape[1] if pieces else 0), np.float32)
    if pieces:
        features[rows] = np.concatenate(pieces)
    return features


def evaluate(
    model: ScoringModel, faces: FaceSet, data: DataOptions, classes: Mapping[Any, Sequence[str]] = NAMES
) -> dict[str, Any]:
    """Metrics over the annotated faces of the validation videos, by name, with the chance levels; empty without any.

    `classes`: by task, names of the model's outputs in order, where they are not all there are. A task without
    annotated faces has no metrics, and a metric that is not defined is None. Annotated frames in which no face was
    found, or not a clear one, are not counted (`Join` says how many there are in all splits).
    """
    chosen = np.any(list(faces.validation.values()), axis=0)
    if not chosen.any():
        return {}
    features = encode(model, faces, chosen)
    tasks: dict[str, NDArray[np.float64]] = {}
    for stretch in stretches(faces, chosen, data):
        for task, values in predict(model, features, stretch, data).items():
            columns = [NAMES[task].index(name) for name in classes.get(task, NAMES[task])]
            outputs = tasks.setdefault(task, np.zeros((len(faces), len(NAMES[task]))))
            outputs[stretch.faces[:, None], columns] = values
    found: dict[str, float | None] = {}
    frames: dict[str, int] = {}
    for task, values in tasks.items():
        rows = faces.validation[task] & faces.annotated(task)
        frames[task] = int(rows.sum())
        if frames[task]:
            measured = TEMPORAL[task].metrics(values[rows], faces.labels[task][rows])
            found |= {name: None if math.isnan(value) else value for name, value in measured.items()}
    by_chance = chance(faces.labels["expr"][faces.validation["expr"]], faces.labels["au"][faces.validation["au"]])
    return {**found, "chance": asdict(by_chance), "frames": frames}


def predict(
    model: ScoringModel, features: NDArray[np.float32], stretch: Stretch, data: DataOptions
) -> dict[str, NDArray[np.float64]]:
    """For each task float64 [m, K], a prediction for each of the stretch's faces, as `mien score` would give it."""
    seen = shown(stretch, data)
    inputs, valid = windows.cut(features[stretch.held], seen, data.window, data.stride)
    calls = [model.heads(inputs[i : i + _WINDOWS], valid[i : i + _WINDOWS]) for i in range(0, len(inputs), _WINDOWS)]
    result = {}
    for task in calls[0]:
        outputs = np.concatenate([call[task] for call in calls])
        outputs[~valid] = 0
        averaged = windows.average(outputs, len(stretch.held), data.stride)
        result[task] = windows.at_frames(averaged, seen, stretch.places)
    return result
