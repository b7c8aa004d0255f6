"""The optimiser of a stage: torch's own, so that nothing is compiled at run time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.objectives import Objective
from train.stage_options import StageOptions


def build(objective: Objective, stage: StageOptions, device: str) -> torch.optim.Optimizer:
    """AdamW or SGD over the objective's parts. `set_rate` sets their learning rates."""
    groups = _groups(objective, stage)
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum)
    return torch.optim.AdamW(groups, lr=stage.lr, betas=stage.betas, fused=device != "cpu")


def set_rate(optimiser: Any, rate: float) -> None:
    """Sets the learning rate of a step; parts with one of their own get the same share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


def _groups(objective: Objective, stage: StageOptions) -> list[dict[str, Any]]:
    """Parameter groups: of each part and layer those that decay and those that do not.

    With AdamW matrices and tokens decay, as in MAE's code, biases and norms do not. With SGD all do, as is usual there.
    """
    names = {parameter: name for name, parameter in objective.named_parameters()}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for part, parameters in objective.parts().items():
        for each in parameters:
            share = stage.rate_of(part) / stage.lr * objective.share(names[each])
            decays = stage.optimiser == "sgd" or each.ndim > 1 or names[each].endswith("_token")
            groups.setdefault((share, not decays), []).append(each)
    return [
        {"params": chosen, "weight_decay": 0.0 if exempt else stage.weight_decay, "share": share}
        for (share, exempt), chosen in groups.items()
    ]
