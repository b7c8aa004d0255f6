"""The tasks: which values a head gives for a face, and their names, labels and columns.

There are three kinds of tasks. They differ in how labels mark a missing value and how a head's raw values are
activated. Losses and metrics are in `train.losses` and `train.metrics`. A head gives the values `outputs`, unless its
bundle names other values of `known` in an order of its own: so a dataset may have fewer or further classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from common.labels import ACTION_UNITS, EXPRESSIONS, FURTHER_EXPRESSIONS, VALENCE_AROUSAL

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Task(ABC):
    """What all kinds of tasks have."""

    name: str
    outputs: tuple[str, ...]  # the values of a head, in this order, unless its bundle names others
    further: tuple[str, ...] = ()  # other outputs that a bundle may name
    prefix: str = ""  # of the outputs' columns in `scores`
    threshold: float | None = None  # a class counts as present from this probability on; None: no threshold applies

    missing: ClassVar[float]
    """Stands for NULL in an array of labels."""

    continuous: ClassVar[bool] = False
    """Whether a frame between two others may have a value between theirs."""

    @property
    def known(self) -> tuple[str, ...]:
        """Every output that a head may give; those of `outputs` come first."""
        return self.outputs + self.further

    def columns(self, outputs: Sequence[str]) -> list[str]:
        """The columns of `scores` that hold these outputs."""
        return [self.prefix + output for output in outputs]

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of `labels` that hold the annotations."""
        return self.outputs

    @abstractmethod
    def targets(self, labels: pd.DataFrame) -> NDArray:
        """The annotations in rows of `labels` as an array, [N] or [N, K], with `missing` where a value is NULL."""

    def annotated(self, targets: NDArray) -> NDArray[np.bool_]:
        """bool [N]: whether any value of `targets` [N] or [N, K] is annotated."""
        known = ~np.isnan(targets) if np.isnan(self.missing) else targets != self.missing
        return known if known.ndim == 1 else known.any(axis=1)

    def absent(self, targets: NDArray) -> list[str]:
        """The classes that none of `targets` [N] or [N, K] has."""
        return []

    @abstractmethod
    def activate(self, values: Tensor) -> Tensor:
        """A head's raw values [..., K] -> published values of the same shape."""


@dataclass(frozen=True)
class Dimensions(Task):
    """Numbers in [-1, 1]; targets are float32 [N, K], NaN where not annotated."""

    missing = float("nan")
    continuous = True

    def targets(self, labels: pd.DataFrame) -> NDArray:
        return labels[list(self.label_columns)].to_numpy(np.float32, na_value=np.nan)

    def activate(self, values: Tensor) -> Tensor:
        """Clipped, without a tanh, because the loss compares the raw values."""
        return values.clamp(-1, 1)


@dataclass(frozen=True)
class OneOf(Task):
    """Classes of which exactly one is true; targets are int64 [N], positions in `outputs`, -1 where not annotated."""

    column: str = ""  # the name of the annotated class in `labels`, and of the most probable one in `scores`

    missing = -1

    @property
    def label_columns(self) -> tuple[str, ...]:
        return (self.column,)

    def targets(self, labels: pd.DataFrame) -> NDArray:
        """A class that is not among `outputs` counts as not annotated."""
        numbers = {output: number for number, output in enumerate(self.outputs)}
        return labels[self.column].map(numbers).fillna(self.missing).to_numpy(np.int64)

    def absent(self, targets: NDArray) -> list[str]:
        return [output for number, output in enumerate(self.outputs) if not (targets == number).any()]

    def activate(self, values: Tensor) -> Tensor:
        return values.softmax(dim=-1)


@dataclass(frozen=True)
class AnyOf(Task):
    """Classes that are each present or not; targets are int64 [N, K], 0, 1, or -1 where not annotated."""

    missing = -1

    def targets(self, labels: pd.DataFrame) -> NDArray:
        values = labels[list(self.label_columns)].to_numpy(np.float64, na_value=np.nan)
        return np.where(np.isnan(values), self.missing, values).astype(np.int64)

    def absent(self, targets: NDArray) -> list[str]:
        return [output for output, column in zip(self.outputs, targets.T, strict=True) if not (column == 1).any()]

    def activate(self, values: Tensor) -> Tensor:
        return values.sigmoid()


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Dimensions("va", VALENCE_AROUSAL),
        OneOf("expr", EXPRESSIONS, further=FURTHER_EXPRESSIONS, prefix="expr_", column="expression"),
        AnyOf("au", ACTION_UNITS, threshold=0.5),
    )
}
"""By name, in the order in which they are trained and published."""


def _named(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"should be one of {', '.join(TASKS)}")
    return name


TaskName = Annotated[str, AfterValidator(_named)]
"""The name of a task, as a type for configurations."""
