"""The training loop: DeepSpeed's engine around any objective.

DeepSpeed does ZeRO; the optimiser is torch's own AdamW, so that nothing is compiled at run time. Learning rate, order
of examples, masks, dropout and augmentation depend only on the seed and the step.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import environment, log
from common.errors import MienError
from common.progress import Progress
from train.objectives import Batch, Objective
from train.recipe import StageOptions

_LOGGED = 50  # log lines per stage


@dataclass(frozen=True)
class Session:
    """What the stages of a run share."""

    seed: int
    zero: int
    precision: str  # float32 or bfloat16
    device: str
    work: Path  # the folder of each stage's log, <stage>.jsonl: loss and learning rate


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


def learning_rate(step: int, stage: StageOptions) -> float:
    """Linear warm-up, then a cosine that would reach 0 one step after the last."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.lr * 0.5 * (1 + math.cos(math.pi * share))


def fit(
    name: str,
    objective: Objective,
    batch_at: Callable[[int], Batch],
    stage: StageOptions,
    session: Session,
    frames: int,
) -> None:
    """Trains the objective in place for `stage.steps` steps. Call it inside `process_group`.

    `batch_at(step)` gives the batch of a step; `frames`: how many frames a batch has, for the progress bar. Raises
    MienError if the loss or a gradient is not finite.
    """
    engine = _engine(objective, stage, session)
    started = time.monotonic()
    every = max(1, stage.steps // _LOGGED)
    objective.train()
    with (
        Progress(total=stage.steps, unit="step", name=name) as progress,
        (session.work / f"{name}.jsonl").open("w") as lines,
    ):
        for step in range(stage.steps):
            torch.manual_seed(step_seed(session.seed, name, step))
            for group in engine.optimizer.param_groups:
                group["lr"] = learning_rate(step, stage)
            loss = engine({key: value.to(session.device) for key, value in batch_at(step).items()})
            engine.backward(loss)
            engine.step()
            progress.update(done=1, frames=frames)
            # ZeRO 1 and 2 do not fail by gradients that are not finite: they leave the weights as they are.
            skipped = engine.skipped_steps > 0
            if skipped or step % every == 0 or step == stage.steps - 1:
                value = float(loss.detach())
                if skipped or not math.isfinite(value):
                    what = "gradients are not finite" if math.isfinite(value) else f"loss is {value}"
                    raise MienError(f"{name}: the {what} at step {step}: lower that stage's lr or clip")
                line = {"stage": name, "step": step, "loss": value, "lr": learning_rate(step, stage)}
                lines.write(json.dumps(line | {"wall_s": round(time.monotonic() - started, 3)}) + "\n")
    engine.destroy()
    del engine
    gc.collect()  # the engine and its hooks refer to each other, so only the garbage collector frees them
    objective.zero_grad(set_to_none=True)


def step_seed(seed: int, name: str, step: int) -> int:
    """The seed of everything random in one step of one stage."""
    return int(np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0])


def _engine(objective: Objective, stage: StageOptions, session: Session) -> Any:
    import deepspeed

    objective.to(session.device)
    engine, *_ = deepspeed.initialize(
        model=objective,
        optimizer=torch.optim.AdamW(
            _groups(objective, stage.weight_decay), lr=stage.lr, betas=stage.betas, fused=session.device != "cpu"
        ),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": stage.batch,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": stage.clip,
            # On a GPU, one buffer for all gradients avoids fragmented memory. On a CPU the copy costs 15 % of a step.
            "zero_optimization": {"stage": session.zero, "contiguous_gradients": session.device != "cpu"},
            "torch_autocast": {"enabled": session.precision == "bfloat16", "dtype": "bfloat16"},
            "steps_per_print": stage.steps + 1,
        },
    )
    return engine


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and tokens have weight decay, as in MAE's code; biases and norms do not."""
    decaying: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decaying if parameter.ndim > 1 or name.endswith("_token") else others).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
