"""What a newcomer adds, an encoder, a head, a data set, goes through training and scoring; kinds mix in one bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from lakes import put_part
from torch import Tensor, nn

from common.bundle.folder import Bundle
from common.commit.units import Video
from common.errors import UsageError
from common.faces import from_faces
from common.lake.layout import Lake
from common.lake.schema import LABELS
from common.tasks import TASKS
from common.windows import Windowing
from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Dataset, Tally
from ingest.datasets.media import Media
from ingest.datasets.registry import DATASETS
from ingest.labelling import label
from score.stream import ScoreOptions, scores
from train import job, recipe
from train.metrics import measure
from train.models.options import EncoderOptions, HeadOptions
from train.models.registry import ENCODERS, HEADS
from train.models.scoring import load
from train.validation import Kept

pytestmark = pytest.mark.slow

# --- what a newcomer writes


class BlocksOptions(EncoderOptions):
    """Means of blocks of pixels, through a layer."""

    kind: Literal["blocks"] = "blocks"
    side: int = 16
    blocks: int = 4
    width: int = 24

    @property
    def input(self) -> tuple[int, int]:
        return 1, self.side

    @property
    def features(self) -> int:
        return self.width

    def build(self) -> nn.Module:
        pool = nn.AdaptiveAvgPool2d(self.blocks)
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(self.blocks**2, self.width), nn.ReLU())


class RecentOptions(HeadOptions):
    """A layer over a face and the one before it."""

    kind: Literal["recent"] = "recent"
    windowing: Windowing = Windowing(window=10, stride=10)

    def build(self, features: int, outputs: int) -> nn.Module:
        return _Recent(features, outputs)


class _Recent(nn.Module):
    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * features, outputs)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        return self.linear(torch.cat([features, before], dim=2))


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """A data set of its own layout: <split>/<video>.csv with the columns frame_index, valence, arousal, expression."""
    for path in sorted(root.glob("*/*.csv")):
        rows = pyarrow.csv.read_csv(path)
        tally.annotations += len(rows)
        split = pa.repeat(path.parent.name, len(rows))
        columns = {name: rows[name] for name in rows.column_names} | {
            "video": pa.repeat(path.stem, len(rows)),
            "base_video": pa.repeat(path.stem, len(rows)),
            "fold": pa.repeat(0, len(rows)),
            **{f"split_{task}": split for task in ("va", "expr")},
        }
        yield pa.table(
            [columns.get(field.name, pa.nulls(len(rows), field.type)).cast(field.type) for field in LABELS],
            schema=LABELS,
        )


PICTURES = "pictures"
DATASET = Dataset(
    title="Newcomer",
    files={"<split>/<video>.csv": "frame_index, valence, arousal, expression"},
    source="made by this test",
    read=read,
    pictures=lambda root, rows: Media(root, PICTURES).pictures(rows),
    crops=lambda root: FileCrops(Media(root, PICTURES).find),
)


@pytest.fixture
def newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines in the registries."""
    monkeypatch.setitem(ENCODERS.places, "blocks", BlocksOptions)
    monkeypatch.setitem(HEADS.places, "recent", RecentOptions)
    monkeypatch.setitem(DATASETS, "newcomer", __name__)


# --- what mien does with it


def score(lake: Path, bundle: Bundle) -> pd.DataFrame:
    """Rows of `scores` for all faces of a lake, as a worker of `mien score --from-faces` makes them."""
    model, found = load(bundle), []
    for part in sorted(lake.glob("faces/**/*.parquet")):
        table = pq.ParquetFile(part).read()
        video = Video(table["uri"][0].as_py(), "1-1", 1)
        found += scores([from_faces(table)], model, video, ScoreOptions())
    return pa.concat_tables(found).to_pandas()


def measured(rows: pd.DataFrame, labels: pd.DataFrame, task: str) -> dict[str, float]:
    """The metrics of scored rows, joined to the validation labels by name of the video and frame."""
    rows = rows.assign(base_video=rows["uri"].map(lambda uri: Path(uri).stem))
    wanted = labels[labels[f"split_{task}"] == "validation"]
    both = rows.merge(wanted, on=["base_video", "frame_index"], suffixes=("", "_true"))
    truth = both.drop(columns=list(TASKS[task].label_columns)).rename(columns=lambda name: name.removesuffix("_true"))
    predictions = both[TASKS[task].columns(TASKS[task].outputs)].to_numpy()
    return measure(task, predictions, TASKS[task].targets(truth))


def labels_of(lake: Path) -> pd.DataFrame:
    return pd.concat(pq.ParquetFile(part).read().to_pandas() for part in lake.glob("labels/**/*.parquet"))


def test_an_encoder_a_head_and_a_data_set_from_elsewhere_are_trained_and_scored_with(
    newcomers: None, toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    for number, part in enumerate(toy_lake.glob("faces/**/*.parquet")):
        put_part(Lake(str(lake)), "faces", f"unit{number}", pq.ParquetFile(part).read(), n=0)
    columns = ["frame_index", "valence", "arousal", "expression"]
    for (name, split), rows in labels_of(toy_lake).groupby(["base_video", "split_va"]):
        file = tmp_path / "dataset" / split / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows[columns].to_csv(file, index=False)
    assert label("newcomer", tmp_path / "dataset", Lake(str(lake))).rows == 420

    chosen = (
        "encoder={kind: blocks}",
        "heads={all: {tasks: [va], steps: 80, batch: 16, lr: 0.01, model: {kind: recent}}}",
    )
    made = job.run(
        recipe.load(toy_recipe, (*chosen, "mae=null", "finetune.steps=60")), Lake(str(lake)), tmp_path / "bundle"
    )
    manifest = Bundle.open(made.path).manifest
    assert (manifest.encoder.kind, manifest.heads["va"].kind) == ("blocks", "recent")
    rows = score(lake, made)
    assert rows["valence"].notna().all()
    assert rows["expr_fear"].isna().all()
    found = measured(rows, labels_of(lake), "va")
    assert found["ccc_valence"] > 0.3
    assert found["ccc_valence"] == pytest.approx(manifest.metrics["ccc_valence"], abs=1e-4)


def test_an_encoder_that_cannot_be_masked_is_not_pretrained(newcomers: None, toy_recipe: str) -> None:
    with pytest.raises(UsageError, match="mae cannot pretrain an encoder of kind blocks: leave mae out"):
        recipe.load(toy_recipe, ("encoder={kind: blocks}",))


def test_a_bundle_of_a_kind_that_is_not_registered_here_is_refused(
    toy_recipe: str, toy_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        here.setitem(HEADS.places, "recent", RecentOptions)
        short = ("mae=null", "finetune.steps=1", "heads.temporal.steps=1", "heads.temporal.model={kind: recent}")
        made = job.run(recipe.load(toy_recipe, short), Lake(str(toy_lake)), tmp_path / "bundle")
    with pytest.raises(UsageError, match="needs the head kind 'recent', which this version of mien does not have"):
        load(made)


MIXED = (
    "mae=null",
    "heads.temporal.tasks=[va]",
    "heads.frame={tasks: [expr], steps: 150, batch: 32, lr: 0.01, model: {kind: linear}}",
)


def test_a_head_of_single_faces_and_one_of_windows_go_from_training_to_scores_in_one_bundle(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    lake = Lake(str(toy_lake))
    made = job.run(recipe.load(toy_recipe, MIXED), lake, tmp_path / "bundle")
    heads = Bundle.open(made.path).manifest.heads
    assert {task: head.kind for task, head in heads.items()} == {"va": "tcn_transformer", "expr": "linear"}
    evaluated: dict[str, Any] = job.evaluate_bundle(made, lake, ())
    rows, labels = score(toy_lake, made), labels_of(toy_lake)
    for task, metric, least in (("va", "ccc_valence", 0.4), ("expr", "f1_expression", 0.3)):
        found = measured(rows, labels, task)[metric]
        assert found > least
        assert found == pytest.approx(evaluated[metric], abs=1e-3)
        assert found == pytest.approx(made.manifest.metrics[metric], abs=1e-3)
    assert rows["au01"].isna().all()


def test_changing_the_shape_of_one_head_trains_that_head_again_and_no_other(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    monkeypatch.setattr("train.loop.fit", lambda name, *rest: trained.append(name) or Kept(0))
    for overrides in (MIXED, (*MIXED, "heads.frame.model.dropout=0.5")):
        job.run(recipe.load(toy_recipe, overrides), Lake(str(toy_lake)), tmp_path / "bundle", force=True)
    assert trained == ["finetune", "va", "expr", "expr"]
