"""Labelled frames in which no face was found, and the predictions that they get from frames that have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.tasks import TASKS


@dataclass(frozen=True, eq=False)
class Faceless:
    """M labelled frames of validation videos without a face of their own, or with several and no way to choose.

    annotation: int32 [M], the annotated track, as `FaceSet.annotation` numbers them; video: int32 [M], number in
    `FaceSet.names`, -1 for a video without any face; frame_index: float64 [M], NaN for a whole clip. labels: by task, a
    target for each row, missing where it is not a validation label.
    """

    annotation: NDArray[np.int32]
    video: NDArray[np.int32]
    frame_index: NDArray[np.float64]
    labels: dict[str, NDArray]


@dataclass(frozen=True, eq=False)
class Filled:
    """m faceless frames with predictions float64 [m, K] and targets [m, ...]; video: int32 [m]. left_out: how many
    labelled frames got none, because no frame of their track has a face."""

    predictions: NDArray[np.float64]
    targets: NDArray
    video: NDArray[np.int32]
    left_out: int


def faceless(
    labels: pd.DataFrame,
    joined: NDArray[np.int64],
    validation: Mapping[str, set[str]],
    annotation: NDArray[np.int32],
    names: pd.Index,
) -> Faceless:
    """Of the rows of `labels`, those that are in no row of `joined` and validate a task.

    validation: by task, the names of the validation videos. annotation: int32, the number of each label's track.
    """
    alone = np.ones(len(labels), bool)
    alone[joined[joined >= 0]] = False
    rest, track = labels[alone], annotation[alone]
    targets = {}
    for name, videos in validation.items():
        targets[name] = TASKS[name].targets(rest).copy()  # it may be a view of `labels`
        counts = (rest[f"split_{name}"] == "validation") & rest["base_video"].isin(videos)
        targets[name][~counts.to_numpy()] = TASKS[name].missing
    kept = np.any([TASKS[name].annotated(values) for name, values in targets.items()], axis=0)
    return Faceless(
        annotation=track[kept],
        video=names.get_indexer(rest["base_video"][kept]).astype(np.int32),
        frame_index=rest["frame_index"][kept].to_numpy(np.float64, na_value=np.nan),
        labels={name: values[kept] for name, values in targets.items()},
    )


def fill(
    task: str,
    frames: Faceless,
    predictions: NDArray[np.float64],
    annotation: NDArray[np.int32],
    frame_index: NDArray[np.int32],
) -> Filled:
    """Predictions for the faceless frames that have a label of the task, from those of N faces of the same tracks.

    predictions: float64 [N, K]; annotation, frame_index: int32 [N]. A frame gets what the nearest frame of its track
    has, of two the earlier one. Values of a `continuous` task are interpolated between the frames before and after it.
    """
    labelled = TASKS[task].annotated(frames.labels[task])
    wanted = np.flatnonzero(labelled & ~np.isnan(frames.frame_index))
    order = np.lexsort((frame_index, annotation))
    tracks = annotation[order]
    values = np.full((len(wanted), predictions.shape[1]), np.nan)
    for track in np.unique(frames.annotation[wanted]):
        here = order[np.searchsorted(tracks, track) : np.searchsorted(tracks, track, side="right")]
        if len(here):
            rows = frames.annotation[wanted] == track
            at = frames.frame_index[wanted[rows]]
            values[rows] = _between(at, frame_index[here], predictions[here], linear=TASKS[task].continuous)
    found = ~np.isnan(values).any(axis=1)
    chosen = wanted[found]
    return Filled(values[found], frames.labels[task][chosen], frames.video[chosen], int(labelled.sum()) - len(chosen))


def _between(
    at: NDArray[np.float64], known: NDArray[np.int32], values: NDArray[np.float64], *, linear: bool
) -> NDArray[np.float64]:
    """Values [len(at), K] at the places `at`, of those known at ascending places."""
    if linear:
        return np.stack([np.interp(at, known, column) for column in values.T], axis=1)
    after = np.clip(np.searchsorted(known, at), 1, max(1, len(known) - 1))
    before = after - 1
    after = np.minimum(after, len(known) - 1)
    return values[np.where(at - known[before] <= known[after] - at, before, after)]
