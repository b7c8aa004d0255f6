"""Rows of a small video, stored: whoever changes them has to give the results of scoring a new version."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from bundles import make_bundle

from common.bundle.folder import Bundle
from common.commit.units import Video
from common.lake.layout import Lake
from common.tasks import TASKS
from common.windows import Windowing
from score import config, job
from score.stream import RESULTS, ScoreOptions, scores
from train.models.linear import LinearOptions
from train.models.scoring import load
from train.models.tcn_transformer import TcnTransformerOptions
from train.models.vit import VitOptions

STORED = Path(__file__).with_name("results.json")
SIZE = 8
FACES = {0: [*range(20), *range(23, 40)], 1: [5, 6, 9]}
COLUMNS = [column for task in TASKS.values() for column in task.columns(task.outputs)]


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights without a generator of random numbers: the same wherever the test runs."""
    made = {}
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) ** 2 * 0.37 + number)
        scales = tensor.ndim == 1 and name.endswith("weight")  # of norms, and slopes of activations
        made[name] = (0.7 + 0.3 * wave if scales else 0.5 * wave).reshape(tensor.shape).to(tensor.dtype)
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A head of each kind, windows that overlap and are padded, a frame rate that is resampled, both rules of gaps."""
    encoder = VitOptions(image=SIZE, channels=1, patch=4, dim=16, depth=1, heads=2)
    shape = {"channels": (8,), "dim": 8, "layers": 1, "heads": 2, "feedforward": 16, "hidden": 8}
    masked = TcnTransformerOptions(windowing=Windowing(fps=20, window=16, stride=10, gaps="mask"), **shape)
    repeated = TcnTransformerOptions(windowing=Windowing(fps=25, window=30, stride=30), **shape)
    heads = {"va": masked, "expr": LinearOptions(), "au": repeated}
    networks = {"encoder": encoder.build()}
    networks |= {task: head.build(16, len(TASKS[task].outputs)) for task, head in heads.items()}
    weights = {f"{name}.safetensors": weights_of(network) for name, network in networks.items()}
    preprocess = {"crop": [1, 1, 6], "size": SIZE, "grey": True, "standardise": True}
    folder = tmp_path_factory.mktemp("results") / "bundle"
    return make_bundle(folder, encoder, heads, preprocess, SIZE, weights=weights)


def test_rows_are_those_that_are_stored_for_this_version_of_the_results(bundle, make_faces, tmp_path: Path) -> None:
    video = Video(uri="/clips/a.mp4", version="1-1", size=1)
    table = pa.concat_tables(scores(make_faces(FACES, 45), load(bundle), video, ScoreOptions()))
    rows = table.filter(pa.compute.is_valid(table["track_id"]))
    keys = [list(key) for key in zip(*(rows[name].to_pylist() for name in ("frame_index", "track_id")), strict=True)]
    values = np.stack([rows[column].to_numpy() for column in COLUMNS], 1)
    found = tmp_path / STORED.name
    lines = [json.dumps([*key, *np.round(row.astype(float), 6)]) for key, row in zip(keys, values, strict=True)]
    found.write_text(f'{{"results": {RESULTS}, "rows": [\n' + ",\n".join(lines) + "\n]}\n")

    stored = json.loads(STORED.read_text())
    renew = f"store the new rows with: cp {found} {STORED}"
    assert stored["results"] == RESULTS, f"score.stream.RESULTS is another than that of the stored rows: {renew}"
    assert keys == [row[:2] for row in stored["rows"]]
    difference = np.abs(values - np.array([row[2:] for row in stored["rows"]])).max()
    assert difference < 1e-5, (
        f"the rows of scores changed by {difference:.1g}: raise score.stream.RESULTS, then {renew}"
    )


def test_the_stored_rows_differ_from_one_another() -> None:
    """A network that says the same of every face would notice no change."""
    rows = np.array([row[2:] for row in json.loads(STORED.read_text())["rows"]])
    assert np.ptp(rows, axis=0).min() > 0.01


def test_rows_of_another_version_of_the_results_have_a_partition_of_their_own(
    bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> str:
        made = job.destination(Lake(str(tmp_path)), "clips", bundle, job.ScoreConfig(), None)
        return dict(made.data.keys)["model"]

    before = model()
    assert model() == before
    monkeypatch.setattr(config, "RESULTS", RESULTS + 1)
    assert model() != before
