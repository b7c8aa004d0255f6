"""The views and the macro that `mien sql` adds to the tables, as SQL; each is created when a query names it."""

from __future__ import annotations

import json
import re

from common.lake.layout import Lake
from common.tasks import TASKS
from score.analysis.quoting import quoted

# By name, the table that each reads.
READS = {"models": "videos", "frames": "scores", "tracks": "scores", "matched": "scores"}
MIN_IOU = 0.5

_PREDICTIONS = [column for task in TASKS.values() for column in task.columns(task.known)]
_MEANS = ", ".join(
    f"sum({name} * frame_duration_s) / nullif(sum(frame_duration_s) FILTER ({name} IS NOT NULL), 0) AS {name}"
    for name in _PREDICTIONS
)

# A row is a frame, however many faces it has.
_FRAMES = """
    CREATE VIEW frames AS
    SELECT video_id, uri, video_name, frame_index, time_s, frame_duration_s, model, archive,
        count(track_id) AS faces, count(*) FILTER (face_status = 'ok') AS ok_faces
    FROM scores GROUP BY ALL"""

# A row is a track. Predictions are means over time: each face counts for as long as its frame is shown. What tells how
# good a track is, are means over its faces; `size` is the side of a square as large as the box.
_TRACKS = f"""
    CREATE VIEW tracks AS
    SELECT video_id, uri, video_name, track_id, model, archive,
        min(frame_index) AS first_frame, max(frame_index) AS last_frame,
        min(time_s) AS start_s, max(time_s + frame_duration_s) AS end_s,
        count(*) AS faces, count(*) FILTER (face_status = 'ok') AS ok_faces,
        avg(det_score) AS det_score, avg(sqrt((box_x1 - box_x0) * (box_y1 - box_y0))) AS size,
        avg(sharpness) AS sharpness, avg(abs(yaw)) AS abs_yaw, {_MEANS}
    FROM scores WHERE track_id IS NOT NULL GROUP BY ALL"""

# A row is a face that the models `a` and `b` both scored: `a` and `b` are their rows of it, which lie in one frame and
# whose boxes overlap, each more than with any other of the frame. Intersection over union of the boxes is `iou`.
_MATCHED = f"""
    CREATE MACRO matched(model_a, model_b, min_iou := {MIN_IOU}) AS TABLE
    WITH pairs AS (
        SELECT a, b,
            greatest(0, least(a.box_x1, b.box_x1) - greatest(a.box_x0, b.box_x0))
            * greatest(0, least(a.box_y1, b.box_y1) - greatest(a.box_y0, b.box_y0)) AS shared,
            (a.box_x1 - a.box_x0) * (a.box_y1 - a.box_y0) + (b.box_x1 - b.box_x0) * (b.box_y1 - b.box_y0) AS areas
        FROM (FROM scores WHERE model = model_a) a
        JOIN (FROM scores WHERE model = model_b) b USING (archive, video_id, frame_index)
    )
    SELECT a.archive AS archive, a.video_id AS video_id, a.video_name AS video_name, a.frame_index AS frame_index,
        a.time_s AS time_s, shared / (areas - shared) AS iou, a, b
    FROM pairs WHERE iou >= min_iou
    QUALIFY row_number() OVER (
            PARTITION BY a.archive, a.video_id, a.frame_index, a.track_id ORDER BY iou DESC, b.track_id) = 1
        AND row_number() OVER (
            PARTITION BY b.archive, b.video_id, b.frame_index, b.track_id ORDER BY iou DESC, a.track_id) = 1"""


def definition(name: str, lake: Lake) -> str:
    """The statement that creates the view or macro `name`. The table that it reads must exist."""
    return {"frames": _FRAMES, "tracks": _TRACKS, "matched": _MATCHED}.get(name) or _models(lake)


def _models(lake: Lake) -> str:
    """The view `models`: a row per model with its bundle, its options, and when its videos were scored."""
    from score.config import made_with, stored

    found = {}
    for partition in lake.partitions("scores"):
        name, config = partition["model"], stored(lake, partition)
        bundle = re.match(rf".*?-{config['bundle']}", name) if config else None
        found[name] = {"model": name, "bundle": bundle[0] if bundle else None, "options": made_with(config)}
    made = quoted(json.dumps(list(found.values())))
    return f"""
    CREATE VIEW models AS
    SELECT made.*, outcome.* EXCLUDE (model)
    FROM (SELECT unnest(from_json({made}, '[{{"model": "VARCHAR", "bundle": "VARCHAR", "options": "VARCHAR"}}]'),
        recursive := true)) AS made
    LEFT JOIN (
        SELECT model, count(*) AS videos, sum(frames)::BIGINT AS frames,
            min(finished_at) AS first_at, max(finished_at) AS last_at
        FROM videos WHERE model IS NOT NULL GROUP BY model
    ) AS outcome USING (model)"""
