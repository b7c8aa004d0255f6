"""DeepSpeed's engine, which trains a network with ZeRO."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from train import optimiser
from train.models import ranks
from train.objectives import Objective
from train.stage_options import StageOptions


def started(network: Objective, stage: StageOptions, zero: int, precision: str, device: str) -> Any:
    """An engine for the network. `zero`: the ZeRO stage; `precision`: float32 or bfloat16."""
    import deepspeed

    portions = len(ranks.portions(stage.batch, stage.micro_batch))
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=optimiser.build(network, stage, device),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": math.ceil(stage.batch / ranks.size() / portions),
            "gradient_accumulation_steps": portions,
            "gradient_clipping": stage.clip or 0.0 if zero else 0.0,  # 0: none, or by `clipped`
            # On a GPU, one buffer for all gradients avoids fragmented memory. On a CPU the copy costs 15 % of a step.
            "zero_optimization": {
                "stage": zero,
                "contiguous_gradients": device != "cpu",
                "memory_efficient_linear": False,  # it would replace torch's own function for good
            },
            "zero_allow_untested_optimizer": stage.optimiser == "sgd",  # DeepSpeed does not test it, our tests do
            "torch_autocast": {"enabled": precision == "bfloat16", "dtype": "bfloat16"},
            "steps_per_print": 1 << 62,
        },
    )
    return engine


def clipped(engine: Any, largest: float | None) -> list[Tensor]:
    """Clips the gradient to this norm, None: to any, where DeepSpeed does not: in stage 0. Returns the norm before.

    In the other stages nothing is done, and none is returned: there DeepSpeed skips a step whose gradient is not
    finite, and counts it.
    """
    if engine.zero_optimization_stage():
        return []
    return [nn.utils.clip_grad_norm_(engine.module.parameters(), math.inf if largest is None else largest).detach()]


def weights(engine: Any) -> dict[str, Tensor]:
    """A copy of the weights of the network that the engine trains."""
    import deepspeed

    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=engine.zero_optimization_stage() == 3):
        return {name: tensor.detach().clone() for name, tensor in engine.module.state_dict().items()}
