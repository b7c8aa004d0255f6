"""Measures a stage on its way, as `mien evaluate` measures the finished model, and remembers the weights to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from train.metrics import with_mean
from train.objectives import Objective


@dataclass(frozen=True)
class Score:
    """How good weights are: `value`, NaN if it is not defined, `by` the metric of that name, among other `metrics`."""

    value: float
    by: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Kept:
    """The weights that a stage keeps: those after `step`, and their score. None: not defined, or not validated."""

    step: int
    by: str | None = None
    score: float | None = None


def score(task: str, metrics: Mapping[str, float]) -> Score:
    """The score of a task from its metrics: mean of both CCCs, macro-F1 of expressions, or mean F1 of action units.

    The score of clips is the metric that is named in place of a task, "uar" or "war".
    """
    if task == "va":
        known = with_mean(metrics)
        return Score(known["ccc_mean"], "ccc_mean", known)
    by = {"expr": "f1_expression", "au": "f1_action_units"}.get(task, task)
    return Score(metrics[by], by, metrics)


class Validation:
    """Measures the weights of some steps of a stage, and remembers the best or the last of them.

    `measure` gives the metrics of the objective, which has these weights and is in evaluation mode; `task` says which
    of the metrics is the score.
    """

    def __init__(
        self, task: str, measure: Callable[[Objective], Mapping[str, float]], select: Literal["last", "best"]
    ) -> None:
        self._task, self._measure, self._select = task, measure, select
        self.kept: Kept | None = None
        self.weights: dict[str, Tensor] = {}

    def state(self) -> dict[str, Any] | None:
        """What is kept so far, for JSON; `restore` takes it, and `weights`, in another process."""
        return asdict(self.kept) if self.kept is not None else None

    def restore(self, state: Mapping[str, Any] | None, weights: Mapping[str, Tensor]) -> None:
        self.kept, self.weights = Kept(**state) if state is not None else None, dict(weights)

    def run(self, step: int, objective: Objective, weights: Mapping[str, Tensor]) -> Mapping[str, float]:
        """The metrics of these weights, which `objective` has from now on. Of equal scores, the first is the best."""
        objective.load_state_dict(weights)
        found = score(self._task, self._measure(objective.eval()))
        best = self.kept.score if self._select == "best" and self.kept is not None else None
        if best is None or found.value > best:
            self.kept = Kept(step, found.by, None if math.isnan(found.value) else found.value)
            self.weights = {name: tensor.cpu() for name, tensor in weights.items()}
        return found.metrics
