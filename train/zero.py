"""What DeepSpeed's optimiser remembers of each parameter, whole and by name, at any ZeRO stage and number of processes.

DeepSpeed keeps it in flat pieces, one for each process. Its own functions cannot fill these in a new engine (0.19.8:
TypeError at stages 1 and 2, KeyError at 3), so the pieces are first made, all zeros, and linked to the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.models import ranks

_REMEMBERED = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), torch.optim.SGD: ("momentum_buffer",)}


def moments(engine: Any) -> dict[str, Tensor]:
    """`<what>.<parameter>` -> float32, of the parameter's shape. All processes call it, after the first step."""
    found = {}
    for what, name, parameter in _each(engine):
        if engine.zero_optimization_stage() == 0:
            found[f"{what}.{name}"] = engine.basic_optimizer.state[parameter][what].detach().cpu().clone()
        else:
            from deepspeed.utils import safe_get_full_optimizer_state

            _link(engine)
            found[f"{what}.{name}"] = safe_get_full_optimizer_state(parameter, what).detach().cpu().clone()
    return found


def restore(engine: Any, tensors: Mapping[str, Tensor], steps: int) -> None:
    """Gives a new engine the moments that another one had after `steps` steps. All processes call it."""
    optimiser = engine.basic_optimizer
    for piece in _pieces(engine):
        zeros = {what: torch.zeros_like(piece) for what in _remembered(optimiser)}
        count = torch.tensor(float(steps), device=piece.device if optimiser.defaults.get("fused") else "cpu")
        optimiser.state[piece] = {"step": count, **zeros}
    for what, name, parameter in _each(engine):
        value = tensors[f"{what}.{name}"].to(parameter.device)
        if engine.zero_optimization_stage() == 0:
            optimiser.state[parameter][what].copy_(value)
        elif engine.zero_optimization_stage() == 3:
            from deepspeed.utils import safe_set_local_optimizer_state

            # The pieces are equally long, the last one is filled up; DeepSpeed's own cut forgets that.
            length = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
            filled = nn.functional.pad(value.flatten(), (0, length * ranks.size() - value.numel()))
            safe_set_local_optimizer_state(parameter, filled.narrow(0, length * ranks.rank(), length), what)
        else:
            from deepspeed.utils import safe_set_full_optimizer_state

            _link(engine)
            safe_set_full_optimizer_state(parameter, value, what)


def _each(engine: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    for what in _remembered(engine.basic_optimizer):
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                yield what, name, parameter


def _remembered(optimiser: torch.optim.Optimizer) -> tuple[str, ...]:
    return _REMEMBERED[type(optimiser)] if optimiser.defaults.get("momentum") != 0 else ()


def _pieces(engine: Any) -> list[Tensor]:
    """What the optimiser works on in this process: whole parameters, or flat pieces of many."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return [parameter for group in engine.basic_optimizer.param_groups for parameter in group["params"]]
    if stage == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return list(engine.optimizer.single_partition_of_fp32_groups)


def _link(engine: Any) -> None:
    """Lets DeepSpeed look up anew which piece holds what: with several groups it would else know the first alone."""
    if engine.zero_optimization_stage() < 3:
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
