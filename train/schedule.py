"""How long a stage is, the learning rate of each of its steps, and after which of them it is validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.errors import UsageError
from train.stage_options import StageOptions, SupervisedStage


@dataclass(frozen=True)
class Schedule:
    """The course of a stage over `examples`: all in steps, though options may be in epochs.

    MAE's schedule (He et al. 2021) is `warmup_epochs: 40` with the default floor of 0. That of the authors' temporal
    models is `floor: 1e-8` with `cosine_epochs` = epochs - warmup_epochs + 1, the T_0 of their
    `CosineAnnealingWarmRestarts`: it is one epoch longer than what is left, so the stage ends above the floor.
    """

    stage: StageOptions
    examples: int

    def __post_init__(self) -> None:
        """Raises UsageError for examples that fill no batch, if only full batches count."""
        if self.stage.drop_last and self.examples < self.stage.batch:
            raise UsageError(
                f"drop_last leaves out all of the {self.examples} examples, they fill no batch of {self.stage.batch}: "
                "lower that stage's batch, or set its drop_last to false"
            )

    @property
    def epoch(self) -> float:
        """Steps of an epoch. Without `drop_last` a batch may span two epochs, so this need not be a whole number."""
        return self._seen / self.stage.batch

    @property
    def steps(self) -> int:
        if self.stage.epochs is None:
            assert self.stage.steps is not None
            return self.stage.steps
        return max(1, math.ceil(round(self.stage.epochs * self.epoch, 6)))  # rounded: 0.1 * 30 is above 3

    def learning_rate(self, step: int) -> float:
        """From the floor linearly to `lr`, which step number `warmup` has, then along a cosine back to the floor.

        With `milestones` it stays there, and falls to a tenth where each of these epochs ends (torch's MultiStepLR).
        """
        stage = self.stage
        warmup = (stage.warmup or 0) if stage.warmup_epochs is None else stage.warmup_epochs * self.epoch
        height = stage.lr - stage.floor
        if step < warmup:
            return stage.floor + height * step / warmup
        if stage.milestones:
            return stage.lr * 0.1 ** sum(step * stage.batch >= epoch * self._seen for epoch in stage.milestones)
        cosine = self.steps - warmup if stage.cosine_epochs is None else stage.cosine_epochs * self.epoch
        share = min(1.0, (step - warmup) / cosine) if cosine > 0 else 0.0
        return stage.floor + height * 0.5 * (1 + math.cos(math.pi * share))

    def validates(self, step: int) -> bool:
        """Whether the stage is validated after this step: at regular distances, and after the last."""
        if not isinstance(self.stage, SupervisedStage) or not self.stage.validates:
            return False
        return step == self.steps - 1 or self._validations(step + 1) > self._validations(step)

    def _validations(self, steps: int) -> int:
        """How many validations the first `steps` steps have, in whole numbers, as these cannot be rounded wrong."""
        assert isinstance(self.stage, SupervisedStage)
        if self.stage.validations_per_epoch is None:
            return steps // (self.stage.validate_every or self.steps)
        return steps * self.stage.validations_per_epoch * self.stage.batch // self._seen

    @property
    def _seen(self) -> int:
        """How many of the examples an epoch takes."""
        return self.examples // self.stage.batch * self.stage.batch if self.stage.drop_last else self.examples
