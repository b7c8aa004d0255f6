"""Lakes with scored videos whose every number a test knows, written as the jobs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from lakes import account, put_part

from common.commit.units import Video
from common.faces import FaceBatch, to_faces, to_scores
from common.lake import schema
from common.lake.layout import Lake

FPS = 25
MODEL = "m-1a-2b"
Tracks = Mapping[int, list[int]]  # track -> the frames in which it has a face


def batch(tracks: Tracks, frames: int, *, every: int = 1, shade: int = 0, crop: int = 8) -> FaceBatch:
    """Faces whose boxes are 10 pixels wide, those of track t at x = 20 t; a crop is of one grey, `shade` + track."""
    pairs = sorted((frame, track) for track, its in tracks.items() for frame in its)
    index = np.arange(0, frames * every, every, dtype=np.int32)
    m = len(pairs)
    track = np.array([pair[1] for pair in pairs], np.int32)
    left = 20.0 * track[:, None]
    return FaceBatch(
        frame_index=index,
        time_s=0.5 + index / FPS,
        duration_s=np.full(frames, every / FPS),
        row=np.array([pair[0] for pair in pairs], np.int32),
        track_id=track,
        box=np.concatenate([left, 0 * left, left + 10, 0 * left + 10], axis=1).astype(np.float32),
        landmarks=np.zeros((m, 5, 2), np.float32),
        score=np.ones(m, np.float32),
        yaw=np.zeros(m, np.float32),
        sharpness=np.ones(m, np.float32),
        status=np.full(m, "ok"),
        crops=np.broadcast_to((shade + track).astype(np.uint8)[:, None, None, None], (m, crop, crop, 3)),
    )


def put_scores(
    lake: Lake,
    uri: str,
    faces: FaceBatch,
    predictions: Mapping[str, np.ndarray],
    *,
    model: str = MODEL,
    archive: str = "main",
    **outcome: Any,
) -> Video:
    """A unit of one video: its rows in `scores` and `videos`; `predictions`: column -> a value for each face."""
    video = Video(uri, "1-1", 1)
    unit = f"u{video.video_id[:8]}"
    rows = to_scores(faces, video, {name: np.asarray(values, np.float32) for name, values in predictions.items()})
    put_part(lake, "scores", unit, rows, keys={"model": model, "archive": archive})
    row = account(video, **({"status": "ok", "model": model} | outcome))
    made = pa.Table.from_pylist([row], schema=schema.VIDEOS)
    put_part(lake, "videos", unit, made, keys={"job": f"score-{model}", "archive": archive})
    return video


def put_faces(lake: Lake, uri: str, faces: FaceBatch) -> None:
    video = Video(uri, "1-1", 1)
    put_part(
        lake, "faces", f"u{video.video_id[:8]}", to_faces(faces, video), n=0, keys={"ingest": "i1", "archive": "main"}
    )


def put_labels(
    lake: Lake, name: str, rows: list[dict[str, Any]], *, dataset: str = "synth", split: str = "train"
) -> None:
    """`rows`: frame_index and what is annotated of it, of the video with the file name `name` less its extension."""
    base = {"video": name, "base_video": name, "fold": 0, "split_va": split, "split_expr": split, "split_au": split}
    table = pa.Table.from_pylist([base | row for row in rows], schema=schema.LABELS)
    put_part(lake, "labels", f"u{name}", table, keys={"dataset": dataset})
