"""What is measured of a model's predictions for the validation videos, and how sure and how fair it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.tasks import TASKS
from train import bootstrap
from train.data.faceless import fill
from train.data.faces import FaceSet
from train.metrics import chance, measure
from train.thresholds import best, mean_f1

Thresholds = Mapping[str, Mapping[str, float]]
"""By task and output: the probability from which on it counts as present."""

_PARTS = (
    "all_labelled",
    "per_video",
    "interval_95",
    "videos",
    "frames",
    "frames_all_labelled",
    "frames_left_out",
    "absent",
)


def report(values: Mapping[str, NDArray[np.float64]], faces: FaceSet, thresholds: Thresholds) -> dict[str, Any]:
    """All that is measured of predictions, by name; empty if there are none. A metric that is not defined is None.

    values: by task, float64 [N, K], for the faces of its validation videos. The metrics themselves are over labelled
    frames with a face, and a task without any has none.
    all_labelled: metrics over all labelled frames; one without a face gets a prediction from its neighbours (`fill`).
    per_video: means over videos. interval_95: where metrics lie when videos are drawn again (`train.bootstrap`).
    f1_action_units_tuned: at the `thresholds`. videos, frames, frames_all_labelled: how many these are.
    frames_left_out: labelled frames of tracks without any face, which count nowhere. absent: classes that no label has:
    their F1 is 0.
    """
    if not values:
        return {}
    found: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {name: {} for name in _PARTS}
    for task, each in values.items():
        rows = faces.validation[task] & faces.annotated(task)
        parts["frames"][task] = int(rows.sum())
        if not rows.any():
            continue
        predicted, targets, video = each[rows], faces.labels[task][rows], faces.video[rows]
        measured = measure(task, predicted, targets)
        if task in thresholds:
            measured["f1_action_units_tuned"] = mean_f1(predicted, targets, thresholds[task])
        found |= measured
        chosen = faces.validation[task] & (faces.annotation >= 0)
        rest = fill(task, faces.faceless, each[chosen], faces.annotation[chosen], faces.frame_index[chosen])
        every = measure(task, np.concatenate([predicted, rest.predictions]), np.concatenate([targets, rest.targets]))
        intervals = bootstrap.intervals(task, predicted, targets, video)
        parts["all_labelled"] |= {name: every[name] for name in every if name in intervals}
        parts["per_video"] |= bootstrap.per_video(task, predicted, targets, video)
        parts["interval_95"] |= intervals
        parts["videos"][task] = len(np.unique(video))
        parts["frames_all_labelled"][task] = len(predicted) + len(rest.predictions)
        parts["frames_left_out"][task] = rest.left_out
        if absent := TASKS[task].absent(targets):
            parts["absent"][task] = absent
    by_chance = chance(faces.labels["expr"][faces.validation["expr"]], faces.labels["au"][faces.validation["au"]])
    return _plain({**found, **parts, "chance": asdict(by_chance)})


def _plain(value: Any) -> Any:
    """The same without NaN, which JSON does not have: None in its place."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def tuned(
    values: Mapping[str, NDArray[np.float64]], faces: FaceSet, outputs: Mapping[str, Sequence[str]]
) -> Thresholds:
    """By task that has a threshold, those of its `outputs` with the highest F1 on the validation videos."""
    found = {}
    for task, each in values.items():
        default, rows = TASKS[task].threshold, faces.validation[task] & faces.annotated(task)
        if default is not None and rows.any():
            columns = [TASKS[task].known.index(output) for output in outputs[task]]
            found[task] = best(each[rows][:, columns], faces.labels[task][rows][:, columns], outputs[task], default)
    return found


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
