"""What `mien sql` derives from the tables, each value against a plain loop over the rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lakes import account, put_part

from common.commit.units import Video
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES, VIDEOS
from score.analysis.sql import connect

START = datetime(2026, 3, 4, tzinfo=UTC)


def row(frame: int, track: int | None, box: tuple[float, ...] | None = None, **more: Any) -> dict[str, Any]:
    box = box or ((0, 0, 10, 10) if track is not None else (None,) * 4)
    return {
        "video_id": "v",
        "uri": "/v.mp4",
        "video_name": "v.mp4",
        "frame_index": frame,
        "time_s": frame / 10,
        "frame_duration_s": 0.1,
        "track_id": track,
        "face_status": "no_face" if track is None else "ok",
        **dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), box, strict=True)),
        **more,
    }


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def put(lake: Lake, rows: list[dict[str, Any]], model: str = "m-1", archive: str = "main", unit: str = "u1") -> None:
    table = pa.Table.from_pylist(rows, schema=SCORES)
    put_part(lake, "scores", unit, table, keys={"model": model, "archive": archive})


def ask(lake: Lake, sql: str) -> list[dict[str, Any]]:
    with connect(lake) as tables:
        names, rows = tables.query(sql)
        return [dict(zip(names, values, strict=True)) for values in rows]


def test_a_frame_is_one_row_with_the_number_of_its_faces(lake: Lake) -> None:
    put(lake, [row(0, None), row(1, 0), row(1, 3, face_status="low_quality"), row(2, 3)])
    found = ask(lake, "SELECT * FROM frames ORDER BY frame_index")
    assert [(f["frame_index"], f["faces"], f["ok_faces"]) for f in found] == [(0, 0, 0), (1, 2, 1), (2, 1, 1)]
    assert {(f["video_name"], f["frame_duration_s"], f["model"], f["archive"]) for f in found} == {
        ("v.mp4", 0.1, "m-1", "main")
    }


def test_a_tracks_predictions_are_means_over_the_time_that_its_faces_are_shown(lake: Lake) -> None:
    rng = np.random.default_rng(3)
    rows = [row(0, None)]
    for frame in range(1, 30):
        for track in (0, 1)[: 1 + frame % 2]:
            known = float(rng.normal()) if frame % 5 else None
            quality = {name: float(rng.normal()) for name in ("det_score", "sharpness", "yaw")}
            box = tuple(float(corner) for corner in (0, 0, *rng.uniform(5, 50, 2)))
            rows.append(row(frame, track, box, valence=known, frame_duration_s=float(rng.uniform(0, 1)), **quality))
    put(lake, rows)
    found = ask(lake, "SELECT * FROM tracks ORDER BY track_id")
    faces = sorted((r for r in rows if r["track_id"] is not None), key=lambda r: (r["track_id"], r["frame_index"]))
    for track, (_, group) in zip(found, groupby(faces, lambda r: r["track_id"]), strict=True):
        mine = list(group)
        scored = [r for r in mine if r["valence"] is not None]
        assert (track["faces"], track["first_frame"], track["last_frame"]) == (
            *(len(mine), mine[0]["frame_index"]),
            mine[-1]["frame_index"],
        )
        assert track["end_s"] == max(r["time_s"] + r["frame_duration_s"] for r in mine)
        weights = [r["frame_duration_s"] for r in scored]
        # valence is stored as float32
        assert track["valence"] == pytest.approx(np.average([r["valence"] for r in scored], weights=weights), abs=1e-6)
        assert track["arousal"] is None
        for name in ("det_score", "sharpness"):
            assert track[name] == pytest.approx(np.mean([r[name] for r in mine]), abs=1e-6)
        assert track["abs_yaw"] == pytest.approx(np.mean([abs(r["yaw"]) for r in mine]), abs=1e-6)
        assert track["size"] == pytest.approx(np.mean([(r["box_x1"] * r["box_y1"]) ** 0.5 for r in mine]), rel=1e-5)


def iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    x = max(0.0, min(a["box_x1"], b["box_x1"]) - max(a["box_x0"], b["box_x0"]))
    y = max(0.0, min(a["box_y1"], b["box_y1"]) - max(a["box_y0"], b["box_y0"]))
    areas = [(r["box_x1"] - r["box_x0"]) * (r["box_y1"] - r["box_y0"]) for r in (a, b)]
    return x * y / (sum(areas) - x * y)


@pytest.mark.parametrize("least", [0.2, 0.5, 0.7])
def test_two_models_rows_of_one_face_are_paired_by_their_boxes_and_each_at_most_once(lake: Lake, least: float) -> None:
    rng = np.random.default_rng(11)
    models: list[list[dict[str, Any]]] = [[], []]
    for frame in range(40):
        for number, rows in enumerate(models):
            for place in range(rng.integers(0, 5)):
                x, y = np.round(rng.uniform(0, 6, 2), 2) + np.array([10 * (place % 2), 0])
                box = (float(x), float(y), float(x) + 10, float(y) + 10)
                rows.append(row(frame, 7 * number + place, box, valence=float(rng.normal())))
            if not any(r["frame_index"] == frame for r in rows):
                rows.append(row(frame, None))
    for rows, model in zip(models, ("m-1", "m-2"), strict=True):
        put(lake, rows, model)
    put(lake, models[1], "m-2", archive="other", unit="u2")  # the same video elsewhere is no further face

    expected = set()
    for frame in range(40):
        a, b = ([r for r in rows if r["frame_index"] == frame and r["track_id"] is not None] for rows in models)
        overlap = np.array([[iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if overlap[i, j] >= least and overlap[i, j] == overlap[i].max() == overlap[:, j].max():
                    expected.add((frame, x["track_id"], y["track_id"]))
    found = ask(lake, f"SELECT * FROM matched('m-1', 'm-2', min_iou := {least})")
    assert {(f["frame_index"], f["a"]["track_id"], f["b"]["track_id"]) for f in found} == expected
    assert len(found) == len(expected) > 3
    for f in found:
        assert (f["a"]["model"], f["b"]["model"], f["archive"]) == ("m-1", "m-2", "main")
        assert f["iou"] == pytest.approx(iou(f["a"], f["b"]), abs=1e-5)


def test_models_say_what_they_are_made_of_and_when_they_scored(lake: Lake) -> None:
    for model in ("de-mo-0123456789ab-1a", "de-mo-0123456789ab-2b"):
        put(lake, [row(0, None)], model)
        videos = [
            account(
                Video(f"/{n}.mp4", "1", 1), status="ok", frames=3, model=model, finished_at=START + timedelta(days=n)
            )
            for n in range(2)
        ]
        keys = {"job": f"score-{model}", "archive": "main"}
        put_part(lake, "videos", "u1", pa.Table.from_pylist(videos, schema=VIDEOS), keys=keys)
    stored = {"bundle": "0123456789ab", "results": 1, "dtype": "bfloat16", "faces": {"ingest": "i-it's"}}
    partition = Partition("scores", (("model", "de-mo-0123456789ab-1a"), ("archive", "main")))
    lake.store.create(lake.config_key(partition), json.dumps(stored).encode())
    first, second = ask(lake, "SELECT * FROM models ORDER BY model")
    assert first == {
        "model": "de-mo-0123456789ab-1a",
        "bundle": "de-mo-0123456789ab",
        "options": first["options"],
        "videos": 2,
        "frames": 6,
        "first_at": START,
        "last_at": START + timedelta(days=1),
    }
    assert "dtype=bfloat16, faces.ingest=i-it's" in first["options"]
    assert (second["bundle"], second["options"]) == (None, "unknown")
