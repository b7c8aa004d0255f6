"""A lake of small moving pictures with labels that follow from them, and a recipe small enough to train in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch
from lakes import put_part

from common.commit.units import video_id
from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake.layout import Lake
from common.lake.schema import FACES, LABELS
from common.tasks import TASKS

CROP = 32


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def faces_table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """A part of `faces`; a row needs frame_index, and track_id and crop where there is a face."""
    full = []
    for row in rows:
        face = row.get("crop") is not None
        columns: dict[str, Any] = {field.name: (0.0 if face else None) for field in FACES}
        columns |= {
            "video_id": video_id(f"/v/{name}.mp4"),
            "uri": f"/v/{name}.mp4",
            "video_name": f"{name}.mp4",
            "frame_duration_s": 1 / 30,
            "time_s": row["frame_index"] / 30,
            "track_id": None,
            "face_status": "ok" if face else "no_face",
            "crop": None,
        }
        full.append(columns | row)
    return pa.Table.from_pylist(full, schema=FACES)


def labels_table(name: str, frames: int, split: str, **columns: list[Any]) -> pa.Table:
    """A dataset's rows for one annotation file; columns that are not given are NULL."""
    base, _, subject = name.rpartition("_")
    subject_ = subject if subject in ("left", "right") else None
    rows: dict[str, Any] = {field.name: [None] * frames for field in LABELS}
    rows |= {
        "video": [name] * frames,
        "base_video": [base if subject_ else name] * frames,
        "subject": [subject_] * frames,
        "frame_index": list(range(frames)),
        **{f"split_{task}": [split] * frames for task in TASKS},
        "fold": [0] * frames,
    }
    return pa.table({**rows, **columns}, schema=LABELS)


def jpeg(picture: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 95, "RGB", "444")


def write_lake(root: Path, faces: dict[str, pa.Table], labels: list[pa.Table]) -> Path:
    """A lake whose units of faces are all committed, each named like its video."""
    lake = Lake(str(root))
    for name, table in faces.items():
        put_part(lake, "faces", name, table, n=0, keys={"ingest": "i-toy", "archive": "toy"})
    put_part(lake, "labels", "labels", pa.concat_tables(labels), keys={"dataset": "toy"})
    return root


def _brightness_video(name: str, split: str, frames: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """A bright square whose place is the expression and whose side is the valence: what a small model can learn."""
    rng = np.random.default_rng(seed)
    level = np.sin(np.arange(frames) / 9 + rng.uniform(0, 6)) * 0.8
    klass = (np.arange(frames) // 10 + rng.integers(8)) % len(EXPRESSIONS)
    rows = []
    for i in range(frames):
        picture = rng.integers(0, 60, (CROP, CROP, 3)).astype(np.uint8)
        y, x = divmod(int(klass[i]), 4)
        side = 4 + round(3 * float(level[i]))
        picture[4 + 14 * y : 4 + 14 * y + side, 1 + 8 * x : 1 + 8 * x + side] = 230
        rows.append({"frame_index": i, "track_id": 0, "crop": jpeg(picture)})
    labels = labels_table(
        name,
        frames,
        split,
        valence=level.tolist(),
        arousal=(-level).tolist(),
        expression=[EXPRESSIONS[k] for k in klass],
        **{unit: (level > 0.1 * n - 0.6).astype(int).tolist() for n, unit in enumerate(ACTION_UNITS)},
    )
    return faces_table(name, rows), labels


@pytest.fixture(scope="session")
def toy_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 70 frames, the last two of them held out."""
    names = [f"toy_{n}" for n in range(6)]
    pairs = {name: _brightness_video(name, "validation" if n >= 4 else "train", 70, n) for n, name in enumerate(names)}
    faces = {name: pair[0] for name, pair in pairs.items()}
    return write_lake(tmp_path_factory.mktemp("lake"), faces, [pair[1] for pair in pairs.values()])


@pytest.fixture(scope="session")
def toy_recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe file that trains all stages in a few seconds."""
    path = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    path.write_text(
        """
name: toy
intended_use: tests
licence: Apache-2.0
precision: float32
crop: {size: 32}
preprocess: {crop: [0, 0, 32], size: 16, grey: true, standardise: true}
encoder: {kind: vit, image: 16, channels: 1, patch: 4, dim: 32, depth: 2, heads: 2}
mae: {steps: 20, batch: 32, lr: 1.0e-3, warmup: 2, decoder: {dim: 16, depth: 1, heads: 2}, augment: {shift: 1}}
finetune: {steps: 120, batch: 32, lr: 2.0e-3, warmup: 5}
heads:
  temporal:
    steps: 60
    batch: 8
    lr: 3.0e-3
    warmup: 3
    model: {kind: tcn_transformer, windowing: {window: 20, stride: 15}, channels: [32], kernel: 3, dim: 32, layers: 1,
            heads: 2, feedforward: 32, hidden: 16, dropout: 0.0}
"""
    )
    return str(path)


@pytest.fixture(scope="session")
def make_lake() -> Callable[[Path, dict[str, pa.Table], list[pa.Table]], Path]:
    return write_lake


@pytest.fixture(scope="session")
def make_faces() -> Callable[[str, list[dict[str, Any]]], pa.Table]:
    return faces_table


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., pa.Table]:
    return labels_table


@pytest.fixture(scope="session")
def crop_jpeg() -> Callable[[np.ndarray], bytes]:
    return jpeg
