"""A bundle says of a face what it said in training: scoring and the evaluation of training check each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from common.commit.units import Video
from common.labels import ACTION_UNITS, EXPRESSION_COLUMNS, VALENCE_AROUSAL
from score.stream import ScoreOptions, scores
from train.data.windows import stretches
from train.evaluate import predict
from train.models import load
from train.models.preprocess import prepare
from train.recipe import DataOptions

VIDEO = Video(uri="/clips/a.mp4", version="1-2", size=1)
FRAMES = 160
FACES = {0: [*range(70), *range(80, 150)], 1: list(range(40, 90)), 2: [5, *range(120, 140)]}


@pytest.mark.parametrize("gaps", ["repeat", "mask"])
def test_scoring_predicts_what_evaluation_predicts(tiny_bundle, make_faces, gaps: str) -> None:
    manifest = tiny_bundle.manifest.model_copy(update={"gaps": gaps})
    model = load(tiny_bundle)
    found = pa.concat_tables(scores(make_faces(FACES, FRAMES), model, VIDEO, ScoreOptions.of(manifest))).to_pandas()

    (batch,) = make_faces(FACES, FRAMES, size=FRAMES)
    order = np.lexsort((batch.row, batch.track_id))
    faces = SimpleNamespace(
        video=np.zeros(len(order), int), track_id=batch.track_id[order], time_s=batch.time_s[batch.row[order]]
    )
    features = model.features(prepare(batch.crops[order], manifest.preprocess))
    data = DataOptions(fps=manifest.fps, window=manifest.window, stride=manifest.stride, gaps=gaps)
    expected = {task: np.full((len(order), k), np.nan) for task, k in (("va", 2), ("expr", 8), ("au", 12))}
    for stretch in stretches(faces, np.ones(len(order), bool), data):
        for task, values in predict(model, features, stretch, data).items():
            expected[task][stretch.faces] = values

    found = found[found.face_status == "ok"].sort_values(["track_id", "frame_index"])
    assert found.frame_index.tolist() == batch.frame_index[batch.row[order]].tolist()
    for task, columns in (("va", VALENCE_AROUSAL), ("expr", EXPRESSION_COLUMNS), ("au", ACTION_UNITS)):
        assert np.ptp(expected[task], axis=0).max() > 1e-3  # the faces differ in what is said of them
        np.testing.assert_allclose(found[list(columns)].to_numpy(), expected[task], atol=1e-4, err_msg=task)
