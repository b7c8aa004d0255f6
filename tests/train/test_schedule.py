"""The course of a stage, held against torch's own schedulers and loaders."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, MultiStepLR
from torch.utils.data import DataLoader

from common.errors import UsageError
from train.schedule import Schedule
from train.stage_options import HeadStage, StageOptions

LINEAR = {"model": {"kind": "linear"}}


def schedule(examples: int, **options: Any) -> Schedule:
    return Schedule(StageOptions(**{"batch": 10, "lr": 2.0, **options}), examples)


def rates(course: Schedule) -> list[float]:
    return [course.learning_rate(step) for step in range(course.steps)]


def optimiser(lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("epochs", [10, 30, 40])  # those of Expr, AU and VA
def test_the_authors_schedule_is_that_of_their_torch_schedulers_cut_short(epochs: int) -> None:
    lr, batches, warmup = 3e-5, 7, 2
    adam = optimiser(lr)
    rise = LinearLR(adam, start_factor=1e-8 / lr, total_iters=warmup * batches)
    expected = []
    for _ in range(warmup * batches):
        expected.append(adam.param_groups[0]["lr"])
        adam.step()
        rise.step()
    adam = optimiser(lr)
    fall = CosineAnnealingWarmRestarts(adam, T_0=epochs - warmup + 1, T_mult=2, eta_min=1e-8)
    for step in range((epochs - warmup) * batches):
        fall.step(step / batches)
        expected.append(adam.param_groups[0]["lr"])
    course = schedule(
        74, epochs=epochs, drop_last=True, lr=lr, warmup_epochs=warmup, floor=1e-8, cosine_epochs=epochs - warmup + 1
    )
    assert course.steps == epochs * batches
    assert rates(course) == pytest.approx(expected, rel=1e-6)
    # The stage ends above the floor, the further the shorter it is: 3.3 % of the peak for Expr, .4 % AU, .2 % VA.
    assert rates(course)[-1] / lr == pytest.approx({10: 0.033, 30: 0.004, 40: 0.002}[epochs], rel=0.25)


def test_milestones_are_those_of_torchs_multi_step_lr_by_epochs() -> None:
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    steps = MultiStepLR(sgd, [30, 40], gamma=0.1)
    expected = []
    for _ in range(50):
        expected += [sgd.param_groups[0]["lr"]] * 7
        sgd.step()
        steps.step()
    course = schedule(74, epochs=50, drop_last=True, lr=0.01, milestones=(30, 40))
    assert rates(course) == pytest.approx(expected, rel=1e-12)


def test_milestones_of_batches_that_span_epochs_come_with_the_first_step_of_the_next_epoch() -> None:
    course = schedule(25, epochs=3, lr=1.0, milestones=(1, 2))  # an epoch is 2.5 steps
    assert rates(course) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_milestones_and_a_cosine_are_refused_together() -> None:
    for cosine in ({"floor": 1e-8}, {"cosine_epochs": 3}):
        with pytest.raises(ValueError, match="either milestones or a cosine"):
            schedule(25, epochs=3, milestones=(1,), **cosine)


def test_the_schedule_of_mae_is_that_of_its_paper_and_code() -> None:
    course = schedule(64, epochs=20, drop_last=True, warmup_epochs=4)
    for step, rate in enumerate(rates(course)):
        epoch = step / 6
        expected = 2.0 * epoch / 4 if epoch < 4 else 1.0 * (1 + math.cos(math.pi * (epoch - 4) / 16))
        assert rate == pytest.approx(expected)


def test_warm_up_and_length_are_counted_in_steps_or_in_epochs() -> None:
    in_steps, in_epochs = schedule(50, steps=30, warmup=10), schedule(50, epochs=6, warmup_epochs=2)
    assert rates(in_steps) == rates(in_epochs)
    assert rates(in_steps)[10] == 2.0
    assert rates(in_steps)[20] == pytest.approx(1.0)
    assert rates(schedule(50, steps=30, warmup_epochs=2)) == rates(in_steps)


def test_without_a_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert rates(schedule(50, steps=1)) == [2.0]


def test_a_cosine_that_is_shorter_than_the_stage_stays_at_the_floor() -> None:
    assert rates(schedule(50, epochs=4, cosine_epochs=2, floor=0.5))[10:] == [0.5] * 10


@pytest.mark.parametrize("examples", [40, 44])
def test_an_epoch_has_as_many_batches_as_torchs_loader_gives(examples: int) -> None:
    loader = DataLoader(torch.utils.data.TensorDataset(torch.zeros(examples)), batch_size=10, drop_last=True)
    assert schedule(examples, epochs=3, drop_last=True).steps == 3 * len(loader)


def test_without_drop_last_as_many_batches_as_all_examples_of_all_epochs_fill() -> None:
    assert schedule(44, epochs=5).steps == 22
    assert schedule(44, epochs=1).steps == 5  # the last one has six examples of the next epoch
    assert schedule(30, epochs=0.1 * 3 / 0.3).steps == 3
    assert schedule(3, epochs=1).steps == 1


def test_examples_that_fill_no_batch_are_refused_if_only_full_batches_count() -> None:
    with pytest.raises(UsageError, match="all of the 9 examples, they fill no batch of 10: lower that stage's batch"):
        schedule(9, epochs=1, drop_last=True)


def validated(examples: int, **options: Any) -> list[int]:
    course = Schedule(HeadStage(batch=10, lr=1.0, **LINEAR, **options), examples)
    return [step for step in range(course.steps) if course.validates(step)]


def test_a_stage_is_validated_at_regular_distances_and_after_its_last_step() -> None:
    assert validated(80, epochs=2, validations_per_epoch=4) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert validated(100, epochs=1, validations_per_epoch=3) == [3, 6, 9]
    assert validated(100, steps=8, validate_every=3) == [2, 5, 7]
    assert validated(100, steps=8) == []


def test_a_stage_is_validated_once_a_step_at_most() -> None:
    assert validated(20, epochs=2, validations_per_epoch=4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"steps": 1, "warmup": 1, "warmup_epochs": 1}, "warmup or warmup_epochs"),
        ({"steps": 1, "floor": 3.0}, "floor that is not above lr"),
        ({"steps": 1, "select": "best"}, "needs validations_per_epoch or validate_every"),
        ({"steps": 1, "validate_every": 1, "validations_per_epoch": 1}, "validate_every or validations_per_epoch"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HeadStage(batch=10, lr=2.0, **LINEAR, **options)
