"""Trains a recipe as `mien train` does, but for its loop: PyTorch's DistributedDataParallel and AdamW, no DeepSpeed.

As a program, started by torchrun: `plain_ddp.py RECIPE LAKE OUT key=value...`. Process 0 writes OUT, JSON: the losses
of each stage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.lake.layout import Lake
from train import job, loop, recipe
from train.models import ranks
from train.schedule import Schedule
from train.validation import Kept

losses: dict[str, list[float]] = {}


def fit(name: str, objective: nn.Module, batch_at: Callable, stage: Any, session: Any, examples: int, *_: Any) -> Kept:
    """`train.loop.fit` in plain PyTorch."""
    matrices = [p for n, p in objective.named_parameters() if p.ndim > 1 or n.endswith("_token")]
    others = [p for n, p in objective.named_parameters() if p.ndim == 1 and not n.endswith("_token")]
    groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=stage.betas)
    trained = DistributedDataParallel(objective, find_unused_parameters=True)
    schedule, losses[name] = Schedule(stage, examples), []
    with ranks.sharing(stage.batch):
        for step in range(schedule.steps):
            torch.manual_seed(loop.step_seed(session.seed, name, step))
            for group in adamw.param_groups:
                group["lr"] = schedule.learning_rate(step)
            adamw.zero_grad()
            loss = trained.train()(batch_at(step))
            loss.backward()
            nn.utils.clip_grad_norm_(objective.parameters(), stage.clip)
            adamw.step()
            losses[name].append(loss.item())
    return Kept(schedule.steps - 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.fit = fit
    chosen, lake, out, *keys = sys.argv[1:]
    folder = Path(out).with_suffix("")
    job.run(recipe.load(chosen, tuple(keys)), Lake(lake), folder / "bundle", folder / "work")
    if ranks.rank() == 0 and losses:
        Path(out).write_text(json.dumps(losses))
