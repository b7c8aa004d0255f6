"""A bundle says of a face what it said in training: scoring and the evaluation of training check each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from common.commit.units import Video
from common.tasks import TASKS
from common.windows import Windowing
from score.stream import ScoreOptions, scores
from train.evaluate import predict
from train.models.preprocess import prepare
from train.models.scoring import load

VIDEO = Video(uri="/clips/a.mp4", version="1-2", size=1)
FRAMES = 160
FACES = {0: [*range(70), *range(80, 150)], 1: list(range(40, 90)), 2: [5, *range(120, 140)]}


WINDOWED = Windowing(window=30, stride=20, fps=20.0)


@pytest.mark.parametrize(
    "windowing",
    [
        dict.fromkeys(TASKS, WINDOWED),
        dict.fromkeys(TASKS, WINDOWED.model_copy(update={"gaps": "mask"})),
        {"va": WINDOWED, "expr": None, "au": Windowing(window=50, stride=50, fps=25)},
    ],
    ids=["repeat", "mask", "mixed"],
)
def test_scoring_predicts_what_evaluation_predicts(tiny_bundle, make_faces, windowing) -> None:
    model = load(tiny_bundle)
    model.heads = {task: replace(head, windowing=windowing[task]) for task, head in model.heads.items()}
    found = pa.concat_tables(scores(make_faces(FACES, FRAMES), model, VIDEO, ScoreOptions())).to_pandas()

    (batch,) = make_faces(FACES, FRAMES, size=FRAMES)
    order = np.lexsort((batch.row, batch.track_id))
    found = found[found.face_status == "ok"].sort_values(["track_id", "frame_index"])
    assert found.frame_index.tolist() == batch.frame_index[batch.row[order]].tolist()
    features = model.features(prepare(batch.crops[order], tiny_bundle.manifest.preprocess))
    for name, task in TASKS.items():
        expected = predict(model, name, features, FaceRows(batch, order), np.ones(len(order), bool))
        assert np.ptp(expected, axis=0).max() > 1e-3  # the faces differ in what is said of them
        np.testing.assert_allclose(found[task.columns(task.outputs)].to_numpy(), expected, atol=1e-4, err_msg=name)


class FaceRows:
    """As much of a `FaceSet` as predictions need."""

    def __init__(self, batch, order: np.ndarray) -> None:
        self.video = np.zeros(len(order), int)
        self.track_id, self.time_s = batch.track_id[order], batch.time_s[batch.row[order]]

    def __len__(self) -> int:
        return len(self.video)
