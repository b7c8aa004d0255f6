"""The training loop: DeepSpeed's engine around any objective.

DeepSpeed does ZeRO. Learning rate, order of examples, masks, dropout and augmentation depend only on the seed and the
step.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import environment, log
from common.errors import MienError
from train import optimiser
from train.objectives import Batch, Objective
from train.schedule import Schedule
from train.stage_log import StageLog
from train.stage_options import StageOptions
from train.validation import Kept, Validation

_LOGGED = 200  # lines of the log per stage, besides those of validations


@dataclass(frozen=True)
class Session:
    """What the stages of a run share."""

    seed: int
    zero: int
    precision: str  # float32 or bfloat16
    device: str
    work: Path  # the folder of the stages' logs and results


def resolve_precision(wanted: str, device: str) -> str:
    """`auto` means bfloat16 if the GPU or processor multiplies it in hardware, else float32."""
    if wanted != "auto":
        return wanted
    capabilities = torch.cpu.get_capabilities()
    if device == "cpu":
        fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    else:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


@contextmanager
def process_group() -> Iterator[None]:
    """A process group of this process alone, for the block, with DeepSpeed initialised on it."""
    environment.LOCAL_RANK.set_default("0")
    environment.DS_ACCELERATOR.set_default("cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    import torch.distributed as dist

    log.adopt("DeepSpeed")
    # Creating DeepSpeed's CPU backend would compile this operator, which only its inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", store=store, rank=0, world_size=1)
    try:
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        yield
        dist.barrier()
    finally:
        deepspeed.comm.destroy_process_group()  # not torch's: DeepSpeed would not know that its groups are gone


def fit(
    name: str,
    objective: Objective,
    batch_at: Callable[[int], Batch],
    stage: StageOptions,
    session: Session,
    examples: int,
    validation: Validation | None = None,
    log_name: str = "",
) -> Kept:
    """Trains the objective in place, on `examples` examples. Call it inside `process_group`.

    `batch_at(step)` gives the batch of a step. `validation` measures the steps that the stage's options say and chooses
    the weights to keep; without it, those of the last step are kept. `log_name`: of the log's files, the stage's unless
    given. Raises MienError if the loss or a gradient is not finite.
    """
    schedule = Schedule(stage, examples)
    last = schedule.steps - 1
    objective.to(session.device)
    # A copy is trained: ZeRO-3 takes a network's weights apart for good, and validation needs a network that is whole.
    engine = _engine(copy.deepcopy(objective).train(), stage, session, schedule.steps)
    batch_at(0)  # what is made once for all batches, such as features, would be counted as time of the first step
    with StageLog(name, session.work, schedule.steps, stage.batch, log_name or name) as out:
        for step in range(schedule.steps):
            torch.manual_seed(step_seed(session.seed, name, step))
            rate = schedule.learning_rate(step)
            optimiser.set_rate(engine.optimizer, rate)
            loss = engine({key: value.to(session.device) for key, value in batch_at(step).items()})
            engine.backward(loss)
            engine.step()
            out.count(loss)
            validated = validation is not None and schedule.validates(step)
            # ZeRO 1 and 2 do not fail by gradients that are not finite: they leave the weights as they are.
            skipped = engine.skipped_steps > 0
            if skipped or validated or step == last or step % max(1, schedule.steps // _LOGGED) == 0:
                mean = out.mean_loss()
                if skipped or not math.isfinite(mean):
                    what = "gradients are not finite" if math.isfinite(mean) else f"loss is {mean}"
                    raise MienError(f"{name}: the {what} at step {step}: lower that stage's lr or clip")
                metrics = validation.run(step, objective, _weights(engine)) if validation and validated else {}
                out.write(step, mean, rate, metrics)
    kept = validation.kept if validation else None
    objective.load_state_dict(validation.weights if validation and kept else _weights(engine))
    engine.destroy()
    del engine
    gc.collect()  # the engine and its hooks refer to each other, so only the garbage collector frees them
    return kept or Kept(last)


def _weights(engine: Any) -> dict[str, Tensor]:
    """A copy of the weights of the network that the engine trains."""
    import deepspeed

    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=engine.zero_optimization_stage() == 3):
        return {name: tensor.detach().clone() for name, tensor in engine.module.state_dict().items()}


def step_seed(seed: int, name: str, step: int) -> int:
    """The seed of everything random in one step of one stage."""
    return int(np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0])


def _engine(objective: Objective, stage: StageOptions, session: Session, steps: int) -> Any:
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=objective,
        optimizer=optimiser.build(objective, stage, session.device),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": stage.batch,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": stage.clip or 0.0,  # 0: none
            # On a GPU, one buffer for all gradients avoids fragmented memory. On a CPU the copy costs 15 % of a step.
            "zero_optimization": {
                "stage": session.zero,
                "contiguous_gradients": session.device != "cpu",
                "memory_efficient_linear": False,  # it would replace torch's own function for good
            },
            "zero_allow_untested_optimizer": stage.optimiser == "sgd",  # DeepSpeed does not test it, our tests do
            "torch_autocast": {"enabled": session.precision == "bfloat16", "dtype": "bfloat16"},
            "steps_per_print": steps + 1,
        },
    )
    return engine
