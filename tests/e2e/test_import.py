"""Models that others published, from their file to rows: `mien score` without a model, and with an imported one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx_files
import pandas as pd
import published_clips
import pytest
import torch
from commands import mien, table

from common.labels import FURTHER_EXPRESSIONS
from common.tasks import TASKS

pytestmark = pytest.mark.slow

SEVEN = {f"expr_{name}" for name in ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")}
EIGHT = SEVEN | {"expr_contempt"}
PREDICTIONS = {column for task in TASKS.values() for column in task.columns(task.known)}


@pytest.fixture(scope="module")
def clip(archive: Path) -> Path:
    return min(archive.glob("*.mp4"))


def scored(lake: Path) -> pd.DataFrame:
    scores = table(lake, "scores").to_pandas()
    assert set(scores.frame_index) == set(range(scores.frame_index.max() + 1))
    return scores


def assert_filled(scores: pd.DataFrame, columns: set[str]) -> None:
    """Faces have a value in each of the columns, the expressions' sum to 1; nothing else has any."""
    faces = scores[scores.face_status != "no_face"]
    assert len(faces)
    assert faces[list(columns)].notna().all(axis=None)
    assert scores[list(PREDICTIONS - columns)].isna().all(axis=None)
    expressions = sorted(column for column in columns if column.startswith("expr_"))
    np.testing.assert_allclose(faces[expressions].sum(axis=1), 1, atol=1e-5)
    assert (faces.expression == faces[expressions].idxmax(axis=1).str.removeprefix("expr_")).all()


def test_without_a_model_the_importable_fer2013_scores_expressions_and_the_command_says_so(
    clip: Path, tmp_path: Path
) -> None:
    done = mien("score", clip, "--lake", tmp_path / "lake", "--json")
    assert done.status == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "no --model was given" in line]
    assert len(said) == 1
    assert "66 % of FER2013's test set" in said[0]
    assert "NULL" in said[0]
    assert_filled(scored(tmp_path / "lake"), SEVEN)
    imported = mien("import", "fer2013", "--out", tmp_path / "bundle", "--json")
    (model,) = (tmp_path / "lake" / "scores" / "schema=1").iterdir()
    assert model.name.startswith(f"model=fer2013-{imported.summary['id']}-")


@pytest.mark.soak
def test_a_file_in_the_layout_of_emotiefflib_is_imported_and_scores(clip: Path, tmp_path: Path) -> None:
    data = onnx_files.model(10)
    file = onnx_files.write(tmp_path / "enet_b0_8_va_mtl.onnx", data)
    digest = hashlib.sha256(data).hexdigest()
    made = mien("import", "emotiefflib", file, "--sha256", digest, "--out", tmp_path / "bundle", "--json")
    assert made.status == 0, made.stderr
    assert made.summary["sha256"] == digest
    assert set(made.summary["columns"]) == EIGHT | {"valence", "arousal"}
    done = mien("score", clip, "--lake", tmp_path / "lake", "--model", tmp_path / "bundle", "--json")
    assert done.status == 0, done.stderr
    assert_filled(scored(tmp_path / "lake"), EIGHT | {"valence", "arousal"})


def test_a_file_that_does_not_fit_is_wrong_usage_and_leaves_nothing(tmp_path: Path) -> None:
    file = onnx_files.write(tmp_path / "enet_b0_8_va_mtl.onnx", onnx_files.model(10))
    done = mien("import", "emotiefflib", file, "--out", tmp_path / "bundle")
    assert done.status == 2
    assert len(done.stderr.splitlines()) == 1
    assert "its SHA-256 is" in done.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.soak
def test_a_checkpoint_of_dfer_clip_is_imported_and_scores_clips(clip: Path, tmp_path: Path) -> None:
    classes = [*(column.removeprefix("expr_") for column in sorted(SEVEN)), *FURTHER_EXPRESSIONS]
    context = torch.randn(len(classes), 8, published_clips.WIDTH, generator=torch.Generator().manual_seed(0))
    saved = published_clips.checkpoint(published_clips.clip_tensors(), classes, context)
    torch.save(saved, tmp_path / "model_best.pth")
    made = mien("import", "dfer-clip", tmp_path / "model_best.pth", "--out", tmp_path / "bundle", "--json")
    assert made.status == 0, made.stderr
    columns = SEVEN | {f"expr_{name}" for name in FURTHER_EXPRESSIONS}
    assert set(made.summary["columns"]) == columns
    done = mien("score", clip, "--lake", tmp_path / "lake", "--model", tmp_path / "bundle", "--json")
    assert done.status == 0, done.stderr
    assert_filled(scored(tmp_path / "lake"), columns)
