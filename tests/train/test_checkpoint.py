"""Checkpoints by themselves, and stages that are cut off and go on from them, compared with stages that never were."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from s3_proxy import FaultProxy
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import AccessDenied, MienError, StoreError
from common.faults import InjectedFault
from common.store.base import StoreSettings
from common.store.store import Store
from train import loop, processes
from train.checkpoint import COMPLETE, Checkpoint, Checkpoints
from train.objectives import Batch, Objective
from train.recipe import CheckpointOptions
from train.stage_options import FinetuneStage, StageOptions
from train.validation import Kept, Validation

STEPS, EXAMPLES = 12, 16
STAGE = StageOptions(steps=STEPS, batch=16, lr=0.02, warmup=3, weight_decay=0.1, clip=0.5)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"weights": {"a": torch.full((2, 3), float(step))}}, {"number": step})


def keeping(folder: Path | str, *steps: int, keep: int = 9) -> Checkpoints:
    made = Checkpoints(Store(str(folder)), "mae-abc", keep)
    for step in steps:
        made.save(checkpoint(step))
    return made


def step_of(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.newest()
    if found is None:
        return None
    assert found.tensors["weights"]["a"].tolist() == [[found.step] * 3] * 2
    assert found.state == {"number": found.step}
    return found.step


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert step_of(keeping(tmp_path)) is None
    assert step_of(keeping(tmp_path, 90, 100, 9)) == 100


def test_the_oldest_are_removed_and_those_of_other_stages_are_not(tmp_path: Path) -> None:
    Checkpoints(Store(str(tmp_path)), "mae-abcd", 1).save(checkpoint(1))
    checkpoints = keeping(tmp_path, 5, 10, 15, keep=2)
    assert {path.name for path in (tmp_path / "mae-abc").iterdir()} == {"step=10", "step=15"}
    checkpoints.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"mae-abcd"}


@pytest.mark.parametrize("point", ["checkpoint.part~weights", "checkpoint.part~state"])
def test_a_checkpoint_that_was_cut_off_while_it_was_written_counts_for_nothing(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = keeping(tmp_path, 5)
    monkeypatch.setenv("MIEN_FAULT", f"{point}:raise")
    with pytest.raises(InjectedFault):
        checkpoints.save(checkpoint(10))
    monkeypatch.delenv("MIEN_FAULT")
    assert step_of(checkpoints) == 5
    checkpoints.save(checkpoint(10))
    assert step_of(checkpoints) == 10


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("part", ["weights-*", "state-*", COMPLETE])
def test_of_a_damaged_checkpoint_nothing_is_taken_but_the_one_before(
    part: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    checkpoints = keeping(tmp_path, 5, 10)
    (file,) = (tmp_path / "mae-abc" / "step=10").glob(part)
    harm(file)
    assert step_of(checkpoints) == 5
    checkpoints.save(checkpoint(10))
    assert step_of(checkpoints) == 10


def test_of_a_torn_checkpoint_on_s3_nothing_is_taken_but_the_one_before(s3_url: str) -> None:
    checkpoints, store = keeping(s3_url, 5, 10), Store(s3_url)
    (key,) = (entry.key for entry in store.list("mae-abc/step=10/weights-"))
    torn = store.read(key)[:-1]
    store.delete([key])
    store.create(key, torn)
    assert step_of(checkpoints) == 5
    checkpoints.save(checkpoint(10))
    assert step_of(checkpoints) == 10


def test_a_store_that_refuses_a_checkpoint_is_told_of_and_the_one_before_stays(s3_server: str, s3_url: str) -> None:
    proxy = FaultProxy(s3_server)
    checkpoints = Checkpoints(Store(s3_url, StoreSettings(proxy.endpoint, "us-east-1")), "mae-abc", 2)
    checkpoints.save(checkpoint(5))
    proxy.faults = ["pass", 403]
    with pytest.raises(AccessDenied, match=rf"^cannot write {s3_url}/mae-abc/step=10/state-.*: access is denied, "):
        checkpoints.save(checkpoint(10))
    assert step_of(checkpoints) == 5


@contextmanager
def full_above(size: int) -> Iterator[None]:
    """In the block no file can grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_in_mid_checkpoint_is_told_of_and_the_one_before_stays(tmp_path: Path) -> None:
    checkpoints = keeping(tmp_path, 5)
    large = Checkpoint(10, {"weights": {"a": torch.ones(9)}, "moments": {"a": torch.ones(99_999)}}, {})
    with (
        full_above(99_999),
        pytest.raises(
            StoreError, match=rf"^cannot write {tmp_path}/.*/moments-.*: the disk or the quota is full, make"
        ),
    ):
        checkpoints.save(large)
    assert step_of(checkpoints) == 5


def test_of_two_that_write_the_same_step_the_first_counts(tmp_path: Path) -> None:
    checkpoints = keeping(tmp_path, 5)
    (file,) = (tmp_path / "mae-abc").glob(f"*/{COMPLETE}")
    first = file.read_bytes()
    checkpoints.save(checkpoint(5))
    assert file.read_bytes() == first
    assert step_of(checkpoints) == 5


class Regression(Objective):
    """An objective small enough to follow, with dropout, statistics of batches, two groups and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm, dropout = nn.BatchNorm1d(16), nn.Dropout(0.1)
        self.model = nn.Sequential(nn.Linear(6, 16), norm, nn.PReLU(), dropout, nn.Linear(16, 1))
        self.model[0].bias.requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        return ((self.model(batch["x"])[:, 0] - batch["y"]).float() ** 2).mean()


def batch_at(step: int) -> Batch:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x[:, 0] * 2 - x[:, 1]}


def session(work: Path, zero: int = 1, store: Store | None = None) -> loop.Session:
    return loop.Session(7, zero, "float32", "cpu", work, store or Store(str(work)), CheckpointOptions(steps=2))


def train(
    work: Path,
    zero: int = 1,
    batch_at: Callable[[int], Batch] = batch_at,
    stage: StageOptions = STAGE,
    validation: Validation | None = None,
    store: Store | None = None,
) -> tuple[dict[str, Tensor], Kept]:
    work.mkdir(exist_ok=True)
    objective = Regression()
    kept = loop.fit("toy", objective, batch_at, stage, session(work, zero, store), EXAMPLES, validation)
    return objective.state_dict(), kept


def losses(work: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (work / "toy.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


class Cut(Exception):
    pass


def but_at(step: int, event: Callable[[], None]) -> Callable[[int], Batch]:
    """The batches, and what happens before that of a step is given."""

    def given(wanted: int) -> Batch:
        if wanted == step:
            event()
        return batch_at(wanted)

    return given


def fail() -> None:
    raise Cut


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with processes.process_group():
        yield


@pytest.fixture(scope="module")
def whole(group: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A stage that was never cut off: its work folder and weights."""
    work = tmp_path_factory.mktemp("whole")
    return work, train(work)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "then"), [(0, 0), (1, 1), (2, 2), (3, 3), (0, 3), (3, 2)])
def test_a_stage_that_was_cut_off_goes_on_to_the_last_digit_at_any_zero_stage(
    zero: int, then: int, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, zero, but_at(7, fail))
    asked: list[int] = []
    found = train(tmp_path, then, lambda step: asked.append(step) or batch_at(step))[0]
    assert sorted(set(asked)) == list(range(6, STEPS))
    exact = {"rtol": 0, "atol": 0} if zero == then == 1 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, whole[1], **exact)
    torch.testing.assert_close(losses(tmp_path), losses(whole[0]), **exact)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_checkpoint as tests
from train import loop, processes
with processes.process_group():
    tests.train(Path(sys.argv[1]), batch_at=tests.but_at(7, lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", [pytest.param("", marks=pytest.mark.soak), "checkpoint.part~moments:kill"])
def test_a_process_that_is_killed_loses_nothing_but_the_steps_since_its_last_checkpoint(
    fault: str, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    if fault:  # one checkpoint is whole, the next one is being written
        with pytest.raises(Cut):
            train(tmp_path, batch_at=but_at(3, fail))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "MIEN_FAULT": fault},
    )
    assert done.returncode == -signal.SIGKILL
    asked: list[int] = []
    found = train(tmp_path, batch_at=lambda step: asked.append(step) or batch_at(step))[0]
    assert min(asked) == (2 if fault else 6)
    torch.testing.assert_close(found, whole[1], rtol=0, atol=0)
    assert losses(tmp_path) == losses(whole[0])


@pytest.mark.slow
def test_a_stage_on_s3_goes_on_where_nothing_of_it_is_on_the_disk(
    whole: tuple[Path, dict[str, Tensor]], s3_url: str, tmp_path: Path
) -> None:
    store = Store(f"{s3_url}/work")
    with pytest.raises(Cut):
        train(tmp_path / "here", batch_at=but_at(7, fail), store=store)
    asked: list[int] = []
    found = train(tmp_path / "there", batch_at=lambda step: asked.append(step) or batch_at(step), store=store)[0]
    assert sorted(set(asked)) == list(range(6, STEPS))
    torch.testing.assert_close(found, whole[1], rtol=0, atol=0)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2])
def test_momentum_is_kept_too(zero: int, group: None, tmp_path: Path) -> None:
    stage = STAGE.model_copy(update={"optimiser": "sgd"})
    unbroken = train(tmp_path / "whole", zero, stage=stage)[0]
    with pytest.raises(Cut):
        train(tmp_path / "cut", zero, but_at(7, fail), stage)
    found = train(tmp_path / "cut", zero, stage=stage)[0]
    torch.testing.assert_close(found, unbroken, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_after_the_step_that_is_under_way_and_loses_none(
    number: int, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batch_at=but_at(6, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is before
    asked: list[int] = []
    found = train(tmp_path, batch_at=lambda step: asked.append(step) or batch_at(step))[0]
    assert sorted(set(asked)) == list(range(7, STEPS))
    torch.testing.assert_close(found, whole[1], rtol=0, atol=0)
    assert losses(tmp_path) == losses(whole[0])


@pytest.mark.slow
def test_batches_that_threads_make_ahead_are_neither_lost_nor_seen_twice_when_a_stage_is_cut_off(
    whole: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "threads", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batch_at=but_at(6, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]
    found = train(tmp_path)[0]
    torch.testing.assert_close(found, whole[1], rtol=0, atol=0)
    assert losses(tmp_path) == losses(whole[0])


@pytest.mark.slow
def test_the_best_weights_so_far_are_kept_over_a_cut(group: None, tmp_path: Path) -> None:
    stage = FinetuneStage(**STAGE.model_dump(), select="best", validate_every=3)
    scores, seen = {2: 0.2, 5: 0.9, 8: 0.4, 11: 0.3}, []

    def validation(*steps: int) -> Validation:
        values = iter([scores[step] for step in steps])

        def measure(objective: Objective) -> dict[str, float]:
            seen.append({name: tensor.clone() for name, tensor in objective.state_dict().items()})
            return {"f1_expression": next(values)}

        return Validation("expr", measure, "best")

    with pytest.raises(Cut):
        train(tmp_path, 1, but_at(7, fail), stage, validation(2, 5))
    weights, kept = train(tmp_path, 1, batch_at, stage, validation(8, 11))
    assert kept == Kept(5, "f1_expression", 0.9)
    torch.testing.assert_close(weights, seen[1], rtol=0, atol=0)


@pytest.mark.slow
def test_the_batch_of_a_loss_that_is_not_a_number_is_kept_and_no_checkpoint_of_its_weights(
    group: None, tmp_path: Path
) -> None:
    broken = {"x": torch.full((16, 6), float("nan")), "y": torch.ones(16)}
    with pytest.raises(MienError, match=r"^toy: the loss is nan at step 7: .* look at its batch, (.*)$") as told:
        train(tmp_path, 0, lambda step: broken if step == 7 else batch_at(step))
    kept = load_file(str(told.value).rpartition(", ")[2])
    torch.testing.assert_close(kept, broken, equal_nan=True)
    assert {path.name for path in (tmp_path / "checkpoints" / "toy").iterdir()} == {"step=4", "step=6"}


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(group: None, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, batch_at=but_at(3, fail))
    other = Regression()
    other.model[4] = nn.Linear(16, 2)
    with pytest.raises(MienError, match="the checkpoint of step 2 is of another model"):
        loop.fit("toy", other, batch_at, STAGE, session(tmp_path), EXAMPLES)
