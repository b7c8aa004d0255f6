"""Trainings on Ray: real workers, on nodes that are lost, compared with a training of processes of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
import torch
from commands import mien, start
from ray_cluster import ray_nodes

from common.bundle.folder import Bundle
from common.errors import MienError, UsageError
from common.run.pool import installation
from common.store.store import Store
from train import on_ray
from train.checkpoint import COMPLETE

SHORT = (
    "mae.steps=3",
    "finetune.steps=40",
    "finetune.augment={shift: 1}",
    "heads.temporal.steps=20",
    "checkpoints.steps=2",
)


def test_a_worker_that_does_not_see_the_folders_of_the_driver_refuses(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = on_ray.Command(("--version",), str(tmp_path), (str(mark),), installation())
    with pytest.raises(
        UsageError, match=f"^the folder {tmp_path} is not the same on the node .*: name folders that all"
    ):
        command(print)


def test_a_worker_with_other_code_than_the_driver_refuses(tmp_path: Path) -> None:
    command = on_ray.Command(("--version",), str(tmp_path), (), installation() | {"version": "0"})
    with pytest.raises(MienError, match="install the same version of mien on every node"):
        command(print)


@pytest.fixture(scope="module")
def whole(toy_lake: Path, toy_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of two processes of this machine."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    done = mien("train", toy_recipe, *SHORT, "--workers", 2, "--lake", toy_lake, "--out", out)
    assert done.status == 0, done.stderr
    return out


def assert_same_weights(found: Path, expected: Path) -> None:
    one, two = Bundle.open(found), Bundle.open(expected)
    for name in two.manifest.files:
        torch.testing.assert_close(one.tensors(name), two.tensors(name), rtol=0, atol=1e-6)


@pytest.mark.soak
def test_a_ray_of_this_machine_trains_as_processes_of_it_do_whatever_folder_the_command_runs_in(
    whole: Path, toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("raise RuntimeError('the stranger was imported')")
    (tmp_path / "toy.yaml").write_text(Path(toy_recipe).read_text())
    options = ("--on", "ray", "--workers", 2, "--lake", toy_lake, "--out", "bundle", "--json")
    done = mien("train", "toy.yaml", *SHORT, *options, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert done.summary["id"] == Bundle.open(tmp_path / "bundle").manifest.id
    assert done.stdout.count("\n") == 1
    assert_same_weights(tmp_path / "bundle", whole)
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "toy.yaml", "bundle", "bundle.train"}


@pytest.mark.soak
def test_a_training_survives_the_loss_of_a_worker_and_of_a_node(
    whole: Path, toy_lake: Path, toy_recipe: str, s3_url: str, tmp_path: Path
) -> None:
    store = Store(f"{s3_url}/work")
    with ray_nodes(3, cpus=1) as (environment, nodes):
        options = ("--workers", 2, "--work", store.url, "--lake", toy_lake, "--out", tmp_path / "bundle")
        training = start("train", toy_recipe, *SHORT, *options, **environment)
        first = busy(training, store, nodes, set())
        next(iter(first)).kill()
        second = busy(training, store, nodes, first)
        lost = next(node for node in nodes[1:] if second & workers([node]))
        for process in [*psutil.Process(lost.pid).children(recursive=True), lost]:
            process.kill()
        _, stderr = training.communicate(timeout=300)
    assert training.returncode == 0, stderr
    assert stderr.count("a worker was lost") >= 2

    assert_same_weights(tmp_path / "bundle", whole)


def workers(nodes: list[Popen[bytes]]) -> set[psutil.Process]:
    """The workers of a training on the nodes."""
    processes = (process for node in nodes for process in psutil.Process(node.pid).children(recursive=True))
    return {process for process in processes if process.name().startswith("ray::RayTrain")}


def busy(
    training: Popen[str], store: Store, nodes: list[Popen[bytes]], before: set[psutil.Process]
) -> set[psutil.Process]:
    """The two workers that run in place of those before, once they have written a checkpoint."""

    def kept() -> set[str]:
        return {entry.key for entry in store.list() if entry.key.endswith(COMPLETE)}

    deadline, found, seen = time.monotonic() + 150, set(), kept()
    while len(found) < 2 or not kept() - seen:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        if len(found) < 2:
            found, seen = workers(nodes) - before, kept()
    return found
