"""Reads one video's scores by one model from a lake, for `score.analysis.plot` to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import UsageError
from common.faces import decoded_crops
from common.join import join_labels, subjects
from common.lake.schema import BOX_COLUMNS
from common.tasks import TASKS
from score.analysis.quoting import quoted
from score.analysis.scored import Scored, find
from score.analysis.sql import Tables

MOST_TRACKS = 6
MOST_POINTS = 1_500  # over the length of the video: a picture has fewer columns of pixels
FACES_SHOWN = 16  # slots over the length of the video, each for one face of a track
PREDICTIONS = tuple(column for task in TASKS.values() for column in task.columns(task.known))
LABELS = tuple(column for task in TASKS.values() for column in task.label_columns)


@dataclass(frozen=True)
class Track:
    """The stretches in which a track has a face, one frame or several neighbouring frames each, in order of time.

    points: a row per stretch: `start_s`, `end_s`, and of the predictions and labels that the track has their mean over
    the stretch (`expression`: the label of its first frame), NaN where there is none; labels as `true_*`.
    faces: (slot, crop uint8 [S, S, 3], expression or None) for slots of the `FACES_SHOWN` that the video has.
    """

    track_id: int
    frames: int
    points: pd.DataFrame
    faces: list[tuple[int, NDArray[np.uint8], str | None]]


@dataclass(frozen=True)
class Timeline:
    """Times are those of the `scores` table, in s; `left_out` counts the shorter tracks, which are not in `tracks`."""

    video: Scored
    start_s: float
    end_s: float
    frames: int
    frames_a_point: int
    tracks: list[Track]
    left_out: int
    datasets: tuple[str, ...]  # of the labels
    held_out: bool  # every label is of a validation set


def read(tables: Tables, name: str, model: str | None = None, archive: str | None = None) -> Timeline:
    """The video of this name or URI. Raises `UsageError` if there is none, no face in it, or a choice is left open."""
    video = find(tables, name, model, archive)
    rows = (
        f"(SELECT * FROM scores WHERE model = {quoted(video.model)} AND archive = {quoted(video.archive)}"
        f" AND video_id = {quoted(video.video_id)})"
    )
    ((start, end, frames, span),) = tables.query(
        "SELECT min(time_s), max(time_s + frame_duration_s), count(DISTINCT frame_index),"
        f" max(frame_index) - min(frame_index) + 1 FROM {rows}"
    )[1]
    found = list(
        tables.query(
            f"SELECT track_id, count(*) FROM {rows} WHERE track_id IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
        )[1]
    )
    if not found:
        raise UsageError(f"no face was found in {video.name}: there is nothing to draw")
    shown = dict(sorted(found[:MOST_TRACKS]))
    step = -(-span // MOST_POINTS)
    points = _points(tables, rows, list(shown), step)
    truth, datasets, held_out = _labels(tables, video, rows, step)
    points = points.merge(truth, "left", on=["track_id", "stretch"])
    crops = _crops(tables, video, points, start, end)
    tracks = [
        Track(track, count, points[points["track_id"] == track].dropna(axis=1, how="all"), crops.get(track, []))
        for track, count in shown.items()
    ]
    return Timeline(video, start, end, frames, step, tracks, len(found) - len(shown), datasets, held_out)


def _points(tables: Tables, rows: str, tracks: Sequence[int], step: int) -> pd.DataFrame:
    """Means over stretches of `step` frames of the video, with the first face of each."""
    means = ", ".join(f"avg({column}) AS {column}" for column in PREDICTIONS)
    boxes = ", ".join(f"arg_min({column}, frame_index) AS {column}" for column in BOX_COLUMNS)
    table = _table(
        tables,
        f"SELECT track_id, frame_index // {step} AS stretch, min(time_s) AS start_s,"
        f" max(time_s + frame_duration_s) AS end_s, min(frame_index) AS frame_index,"
        f" arg_min(expression, frame_index) AS expression, {boxes}, {means}"
        f" FROM {rows} WHERE track_id IN ({', '.join(map(str, tracks))}) GROUP BY 1, 2 ORDER BY 1, start_s, 2",
    )
    return table.astype(dict.fromkeys(PREDICTIONS, float))


def _labels(tables: Tables, video: Scored, rows: str, step: int) -> tuple[pd.DataFrame, tuple[str, ...], bool]:
    """The labels of the video's faces by track and stretch, their datasets, and whether all are of validation sets.

    None, if several videos of the archive have this name: nothing says which of them was annotated.
    """
    stem = PurePosixPath(video.uri).stem
    none = pd.DataFrame({"track_id": pd.Series(dtype=int), "stretch": pd.Series(dtype=int)}), (), False
    labels = _table(
        tables,
        f"SELECT dataset, base_video, subject, frame_index, {', '.join(LABELS)},"
        f" {', '.join(f'split_{task}' for task in TASKS)} FROM labels"
        f" WHERE base_video = {quoted(stem)} AND frame_index IS NOT NULL",
    )
    ((videos,),) = tables.query(
        f"SELECT count(DISTINCT video_id) FROM videos WHERE archive = {quoted(video.archive)}"
        rf" AND regexp_replace(video_name, '(.)\.[^.]*$', '\1') = {quoted(stem)}"
    )[1]
    if labels.empty or videos > 1:
        return none
    where = f"FROM {rows} WHERE track_id IS NOT NULL"
    faces = _table(tables, f"SELECT video_id, track_id, frame_index, box_x0, box_x1 {where}").assign(video=stem)
    labels["subject"] = subjects(labels)
    joined, _ = join_labels(faces, labels)
    faces, labels = faces[joined >= 0], labels.iloc[joined[joined >= 0]].reset_index(drop=True)
    if labels.empty:
        return none
    numbers = [column for column in LABELS if column != "expression"]
    labels = labels.astype(dict.fromkeys(numbers, float)).rename(columns={name: f"true_{name}" for name in LABELS})
    placed = labels.assign(track_id=faces["track_id"].to_numpy(), stretch=faces["frame_index"].to_numpy() // step)
    truth = placed.groupby(["track_id", "stretch"], as_index=False).agg(
        {f"true_{column}": "mean" for column in numbers} | {"true_expression": "first"}
    )
    splits = labels[[f"split_{task}" for task in TASKS]].stack().dropna()
    return truth, tuple(sorted(labels["dataset"].unique())), bool(len(splits)) and bool((splits == "validation").all())


def _crops(
    tables: Tables, video: Scored, points: pd.DataFrame, start: float, end: float
) -> dict[int, list[tuple[int, NDArray[np.uint8], str | None]]]:
    """Of each track, the stored crop nearest to the middle of each of the slots in which the track has a face."""
    place = (points["start_s"] - start) / max(end - start, 1e-9) * FACES_SHOWN
    slots = place.clip(0, FACES_SHOWN - 1e-9).astype(int)
    off = (place - slots - 0.5).abs()
    chosen = points.assign(slot=slots, off=off).sort_values("off", kind="stable").groupby(["track_id", "slot"]).head(1)
    frames = ", ".join(map(str, sorted(chosen["frame_index"].unique())))
    found = tables.query(
        f"SELECT uri, frame_index, crop, {', '.join(BOX_COLUMNS)} FROM faces"
        f" WHERE video_id = {quoted(video.video_id)} AND frame_index IN ({frames}) AND crop IS NOT NULL"
    )[1]
    stored: dict[int, list[tuple]] = {}
    for row in found:
        stored.setdefault(row[1], []).append(row)
    crops: dict[int, list[tuple[int, NDArray[np.uint8], str | None]]] = {}
    for face in chosen.sort_values(["track_id", "slot"]).to_dict("records"):
        box = [face[column] for column in BOX_COLUMNS]
        # The archive may have been ingested with other options, so faces are matched by their boxes.
        same = [row for row in stored.get(face["frame_index"], []) if _overlap(box, row[3:]) >= 0.5]
        if same:
            uri, frame, crop = max(same, key=lambda row: _overlap(box, row[3:]))[:3]
            table = pa.table({"uri": [uri], "frame_index": [frame], "crop": [crop]})
            crops.setdefault(face["track_id"], []).append((face["slot"], decoded_crops(table)[0], face["expression"]))
    return crops


def _table(tables: Tables, query: str) -> pd.DataFrame:
    names, rows = tables.query(query)
    return pd.DataFrame(list(rows), columns=names)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0
