"""How good a model is on a split: the faces go the way of scoring, windows, overlap average and all."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import windows
from train.data.faces import FaceSet
from train.data.windows import Sequence, cut, sequences
from train.metrics import chance
from train.models import ScoringModel
from train.recipe import DataOptions
from train.tasks import TEMPORAL

_BATCH = 256  # faces a call of the encoder
_WINDOWS = 8  # windows a call of the heads


def encode(model: ScoringModel, faces: FaceSet, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features float32 [N, D] of the chosen faces; zeros for the others."""
    rows = np.flatnonzero(chosen)
    pieces = [model.features(faces.images[rows[i : i + _BATCH]]) for i in range(0, len(rows), _BATCH)]
    features = np.zeros((len(faces), pieces[0].shape[1] if pieces else 0), np.float32)
    if pieces:
        features[rows] = np.concatenate(pieces)
    return features


def evaluate(model: ScoringModel, faces: FaceSet, data: DataOptions) -> dict[str, Any]:
    """Metrics over the annotated faces of the validation videos, by name, with the chance levels; empty without any.

    Annotated frames in which no face was found are not counted (`Join.without_face` says how many there were).
    """
    chosen = np.any(list(faces.validation.values()), axis=0)
    if not chosen.any():
        return {}
    features = encode(model, faces, chosen)
    tasks: dict[str, NDArray[np.float64]] = {}
    for sequence in sequences(faces, chosen, data):
        for task, values in predict(model, features, sequence, data).items():
            tasks.setdefault(task, np.full((len(faces), values.shape[1]), np.nan))[sequence.faces] = values
    found: dict[str, Any] = {}
    frames: dict[str, int] = {}
    for task, values in tasks.items():
        rows = faces.validation[task] & faces.annotated(task)
        frames[task] = int(rows.sum())
        found |= TEMPORAL[task].metrics(values[rows], faces.labels[task][rows])
    by_chance = chance(faces.labels["expr"][faces.validation["expr"]], faces.labels["au"][faces.validation["au"]])
    return {**found, "chance": asdict(by_chance), "frames": frames}


def predict(
    model: ScoringModel, features: NDArray[np.float32], sequence: Sequence, data: DataOptions
) -> dict[str, NDArray[np.float64]]:
    """For each task float64 [m, K], a prediction for each of the sequence's faces, as `mien score` would give it."""
    pieces = cut(sequence, data)
    inputs = features[pieces.rows]
    inputs[~pieces.valid] = 0
    calls = [
        model.heads(inputs[i : i + _WINDOWS], pieces.valid[i : i + _WINDOWS]) for i in range(0, len(pieces), _WINDOWS)
    ]
    valid = sequence.own if data.gaps == "mask" else np.ones(len(sequence.held), bool)
    result = {}
    for task in calls[0]:
        outputs = np.concatenate([call[task] for call in calls])
        outputs[~pieces.valid] = 0
        averaged = windows.average(outputs, len(sequence.held), data.stride)
        result[task] = windows.at_frames(averaged, valid, sequence.places)
    return result
