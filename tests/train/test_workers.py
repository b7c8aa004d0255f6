"""Trainings of several processes: real ones, with real kills, compared with those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import plain_ddp
import pytest

from benchmarks.support.s3_server import free_port
from common import environment
from common.bundle.folder import Bundle
from common.cli import main
from common.store.store import Store

pytestmark = pytest.mark.slow

STAGES = ("mae", "finetune", "va", "expr", "au")
MIEN = Path(sys.executable).parent / "mien"
# All that is random, and a batch that two workers cannot halve.
SHORT = (
    "mae.steps=3",
    "mae.batch=7",
    "mae.micro_batch=3",
    "mae.augment={area: [0.5, 1], shift: 1, flip: true, light: 0.2}",
    "finetune.steps=3",
    "finetune.validate_every=2",
    "finetune.select=best",
    "finetune.layer_decay=0.7",
    "finetune.drop_path=0.3",
    "finetune.average=0.9",
    "heads.temporal.steps=6",
    "heads.temporal.noise=0.1",
    "heads.temporal.model.dropout=0.3",
    "heads.temporal.model.norm=batch",
    "heads.temporal.model.weight_norm=true",
    "checkpoints.steps=2",
)
Train = Callable[..., int]


@pytest.fixture
def train(toy_lake: Path, toy_recipe: str) -> Train:
    """Runs `mien train` to the bundle `out`, with `overrides` and other options."""

    def run(out: Path, *options: str) -> int:
        return main(["train", toy_recipe, *SHORT, *options, "--lake", str(toy_lake), "--out", str(out)])

    return run


@pytest.fixture(scope="module")
def whole(toy_lake: Path, toy_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of one process that was never cut off."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    assert main(["train", toy_recipe, *SHORT, "--lake", str(toy_lake), "--out", str(out)]) == 0
    return out


def losses(out: Path) -> dict[str, list[float]]:
    """By stage, of each step."""
    found: dict[str, list[float]] = {}
    for log in Path(f"{out}.train").glob("*.jsonl"):
        lines = list(map(json.loads, log.read_text().splitlines()))
        assert [line["step"] for line in lines] == list(range(len(lines)))
        found[lines[0]["stage"]] = [line["loss"] for line in lines]
    return found


def test_two_workers_have_the_losses_and_the_metrics_of_one_process(train: Train, whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "bundle", "zero=2", "--workers", "2") == 0
    expected, found = losses(whole), losses(tmp_path / "bundle")
    assert set(found) == set(STAGES)
    for stage, values in expected.items():
        assert found[stage] == pytest.approx(values, rel=1e-5), stage
    one, two = Bundle.open(whole).manifest, Bundle.open(tmp_path / "bundle").manifest
    assert two.metrics["ccc_valence"] == pytest.approx(one.metrics["ccc_valence"], abs=1e-3)
    assert {each["step"] for each in one.data["stages"].values()} == {
        each["step"] for each in two.data["stages"].values()
    }
    assert not list(Path(f"{tmp_path / 'bundle'}.train", "checkpoints").rglob("*.json"))


@pytest.mark.soak
def test_a_killed_training_goes_on_from_s3_where_nothing_of_it_is_on_the_disk(
    train: Train, whole: Path, toy_lake: Path, toy_recipe: str, s3_url: str, tmp_path: Path
) -> None:
    work = ("--work", f"{s3_url}/work")
    done = subprocess.run(
        [MIEN, "train", toy_recipe, *SHORT, *work, "--lake", toy_lake, "--out", tmp_path / "here" / "bundle"],
        env=os.environ | {"MIEN_FAULT": "train.step~va step=5 :kill", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL
    out = tmp_path / "there" / "bundle"
    assert train(out, *work) == 0
    logs = [json.loads(line) for log in Path(f"{out}.train").glob("*.jsonl") for line in log.read_text().splitlines()]
    assert {line["stage"]: line["step"] for line in reversed(logs)} == {"va": 4, "expr": 0, "au": 0}
    assert Bundle.open(out).manifest.files == Bundle.open(whole).manifest.files
    left = {entry.key.partition("-")[0] for entry in Store(s3_url).list()}
    assert left == {"work/mae", "work/finetune", "work/va", "work/expr", "work/au"}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("before", "after"),
    [(("zero=2", "--workers", "2"), ("zero=1",)), (("zero=1",), ("zero=3", "--workers", "2"))],
)
def test_a_killed_training_goes_on_with_another_number_of_workers_and_zero_stage(
    before: tuple[str, ...],
    after: tuple[str, ...],
    train: Train,
    whole: Path,
    toy_lake: Path,
    toy_recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "bundle"
    monkeypatch.setenv("MIEN_FAULT", f"train.step~va step=5 rank={len(before) // 2}.:kill")
    done = subprocess.run(
        [MIEN, "train", toy_recipe, *SHORT, *before, "--lake", toy_lake, "--out", out],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode != 0
    if "--workers" in before:
        told = [line for line in done.stderr.splitlines() if line.startswith("mien: ")]
        assert told == [
            "mien: worker 1 of 2 was killed (SIGKILL): run the same command again, it goes on from its last checkpoint"
        ]
    monkeypatch.delenv("MIEN_FAULT")
    assert train(out, *after) == 0
    for stage, values in losses(whole).items():
        assert losses(out)[stage] == pytest.approx(values, rel=1e-5), stage


@pytest.mark.soak
def test_processes_with_different_recipes_do_not_train_together(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    port = free_port()
    processes = [
        subprocess.Popen(
            [MIEN, "train", toy_recipe, *SHORT, f"seed={rank}", "--lake", toy_lake, "--out", tmp_path / "bundle"],
            env=os.environ | environment.launched(rank, 2, port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        last = process.communicate()[1].splitlines()[-1]
        assert last.startswith("mien: the processes of this training have different recipes: start all by the same")
        assert process.returncode == 2
    assert not (tmp_path / "bundle").exists()


@pytest.mark.soak
def test_twenty_steps_of_each_task_have_the_losses_of_ddp_at_every_zero_stage(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    keys = ("mae.steps=20", "mae.batch=7", "finetune.steps=20", "heads.temporal.steps=20", "heads.temporal.noise=0.1")
    torchrun = [Path(sys.executable).parent / "torchrun", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, plain_ddp.__file__, toy_recipe, toy_lake, tmp_path / "ddp.json", *keys]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "ddp.json").read_text())
    assert {stage: len(values) for stage, values in expected.items()} == dict.fromkeys(STAGES, 20)
    for zero, workers in ((0, 1), (0, 2), (1, 2), (2, 2), (3, 2)):
        out = tmp_path / f"{zero}-{workers}"
        options = (f"zero={zero}", "--workers", str(workers), "--lake", str(toy_lake), "--out", str(out))
        assert main(["train", toy_recipe, *keys, *options]) == 0
        found = losses(out)
        for stage, values in expected.items():
            assert found[stage] == pytest.approx(values, rel=1e-5), (zero, workers, stage)
