"""The training loop: DeepSpeed's engine around any objective.

DeepSpeed does ZeRO. Learning rate, order of examples, masks, dropout and augmentation depend only on the seed and the
step. So a stage that was cut off goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from common import log
from common.bundle import weights
from common.errors import MienError
from common.faults import fault
from common.store.store import Store
from train import engines, interruption, optimiser, processes, zero
from train.average import Average
from train.checkpoint import Checkpoint, Checkpoints
from train.data.ahead import ahead, on_its_way, threads
from train.interruption import Request
from train.models import ranks
from train.objectives import Batch, Objective
from train.recipe import CheckpointOptions
from train.schedule import Schedule
from train.speed import Arithmetic
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
    work: Path  # the folder of the stages' logs and pictures
    store: Store  # of their checkpoints and results
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    compiled: bool = False  # networks are trained in the form that torch.compile gives them


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


def checkpoints(session: Session, stage: str) -> Checkpoints:
    """Those of a stage, by its name and digest."""
    return Checkpoints(
        Store(f"{session.store.url}/checkpoints", session.store.settings), stage, session.checkpoints.kept
    )


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
    """Trains the objective in place, on `examples` examples. Call it inside `processes.process_group`; all
    processes share each batch and end with the same weights.

    `batch_at(step)` gives this process's part of the batch of a step (`ranks.mine`); several threads may call it, ahead
    of the steps. `validation` measures the weights after the steps that the stage's options say and chooses those to
    keep; without it, those of the last step are kept. `log_name`: of the stage's log and checkpoints, its name unless
    given. The newest checkpoint of that name is gone on from. Raises MienError if the loss or a gradient is not finite,
    and KeyboardInterrupt, once a checkpoint is written, on Ctrl-C or SIGTERM.
    """
    log_name = log_name or name
    schedule = Schedule(stage, examples)
    kept_here = checkpoints(session, log_name)
    start = _restored(objective, validation, _newest(kept_here))
    objective.to(session.device)
    # A copy is trained: ZeRO-3 takes a network's weights apart for good, and validation needs a network that is whole.
    network = copy.deepcopy(objective).train()
    for part in network.children() if session.compiled else ():
        part.compile()
    engine = engines.started(network, stage, session.zero, session.precision, session.device)
    if start.step:
        zero.restore(engine, start.tensors["moments"], start.step)
    average = None
    if stage.average is not None:
        weights_before = start.tensors.get("average", objective.state_dict())
        parameters = {each for each, _ in objective.named_parameters()}
        average = Average(stage.average, weights_before, parameters, session.device)
    arithmetic = Arithmetic(session.device, session.precision)
    out = StageLog(name, session.work, schedule.steps, stage.batch, log_name, arithmetic, start.state.get("log"))
    with ranks.sharing(stage.batch):
        batch_at(start.step)  # so that what is made once for all batches, such as features, is made by this thread
        course = _Course(
            name, objective, engine, batch_at, schedule, session, validation, kept_here, out, arithmetic, average
        )
        steps = range(start.step, schedule.steps)
        made = ahead(on_its_way(batch_at, session.device), steps, threads())
        with out, interruption.awaited() as request, closing(made) as batches:
            for step in steps:
                with out.waiting():
                    batch = next(batches)
                course.step(step, batch)
                course.keep(step, request)
    kept = validation.kept if validation else None
    objective.load_state_dict(validation.weights if validation and kept else course.result())
    processes.take_from_first(objective.state_dict())  # it alone knows which weights are the best
    engine.destroy()
    del engine, course
    gc.collect()  # the engine and its hooks refer to each other, so only the garbage collector frees them
    return kept or Kept(schedule.steps - 1)


def _newest(checkpoints: Checkpoints) -> Checkpoint | None:
    """The newest checkpoint, as process 0 finds it."""
    found = checkpoints.newest() if ranks.rank() == 0 else None
    step = processes.highest(found.step if found else 0)
    return found or (checkpoints.read(step) if step else None)


def _restored(objective: Objective, validation: Validation | None, found: Checkpoint | None) -> Checkpoint:
    """Gives the objective and its validation what the checkpoint has. Without one, that of a stage that begins."""
    if found is None:
        return Checkpoint(0, {}, {})
    try:
        objective.load_state_dict(found.tensors["weights"])
    except RuntimeError as error:
        raise MienError(f"the checkpoint of step {found.step} is of another model: {error}") from None
    if validation is not None:
        validation.restore(found.state["kept"], found.tensors.get("best", {}))
    log.get("train").info("stage goes on from a checkpoint", step=found.step)
    return found


@dataclass(eq=False)
class _Course:
    """The steps of a stage: each trains, and after some of them weights are measured or a checkpoint is written."""

    name: str
    objective: Objective
    engine: Any
    batch_at: Callable[[int], Batch]
    schedule: Schedule
    session: Session
    validation: Validation | None
    checkpoints: Checkpoints
    out: StageLog
    arithmetic: Arithmetic
    average: Average | None

    def __post_init__(self) -> None:
        self._portions = ranks.portions(self.schedule.stage.batch, self.schedule.stage.micro_batch)
        self._norms: list[Tensor] = []  # of the gradients since the last line of the log, where they are known
        self._last = self.schedule.steps - 1
        self._kept_at = time.monotonic()

    def step(self, step: int, batch: Batch) -> None:
        """Trains one step, and writes a line of the log after some of them. Raises MienError if it is not finite."""
        engine = self.engine
        fault("train.step", f"{self.name} step={step} rank={ranks.rank()}.")
        rate = self.schedule.learning_rate(step)
        optimiser.set_rate(engine.optimizer, rate)
        batch = {key: value.to(self.session.device, non_blocking=True) for key, value in batch.items()}
        losses_of_portions = []
        with self.arithmetic.counted():
            for portion in self._portions:
                torch.manual_seed(step_seed(self.session.seed, self.name, step))
                with portion.computed():
                    loss = portion.weight * engine({key: value[portion.mine] for key, value in batch.items()})
                    engine.backward(len(self._portions) * loss)  # DeepSpeed takes the mean of them
                    if portion is self._portions[-1]:
                        self._norms += engines.clipped(engine, self.schedule.stage.clip)
                    engine.step()  # changes weights after the last portion
                losses_of_portions.append(loss.detach())
        if self.average:
            self.average.add(step, engines.weights(engine))
        self.out.count(torch.stack(losses_of_portions).sum())
        validated = self.validation is not None and self.schedule.validates(step)
        # ZeRO 1 and 2 do not fail by gradients that are not finite: they leave the weights as they are.
        skipped = engine.skipped_steps > 0
        if skipped or validated or step == self._last or step % max(1, self.schedule.steps // _LOGGED) == 0:
            losses = self.out.losses()
            self._check(step, losses)
            self._norms.clear()
            if skipped:
                self._fail(step, "gradients are not finite")
            metrics: Mapping[str, float] = {}
            if self.validation and validated:
                current = self.result()
                metrics = self.validation.run(step, self.objective, current) if ranks.rank() == 0 else {}
            self.out.write(step, losses, rate, metrics)

    def keep(self, step: int, request: Request) -> None:
        """Writes a checkpoint after a step if it is time or if that is asked for, which then ends the training."""
        every, seconds = self.session.checkpoints.steps, 60 * self.session.checkpoints.minutes
        due = time.monotonic() - self._kept_at >= seconds or (every is not None and (step + 1) % every == 0)
        wish = 2 if request.made else int(due and ranks.rank() == 0)
        wish = 0 if step == self._last else processes.highest(wish)
        if not wish:
            return
        log_state, kept = self.out.state(), self.validation.state() if self.validation else None
        self._check(step, log_state["losses"])
        tensors = {"weights": engines.weights(self.engine), "moments": zero.moments(self.engine)}
        if not all(tensor.isfinite().all() for tensor in tensors["weights"].values()):
            self._fail(step, "weights are not finite")
        if self.validation and kept:
            tensors["best"] = self.validation.weights
        if self.average:
            tensors["average"] = self.average.weights
        if ranks.rank() == 0:
            self.checkpoints.save(Checkpoint(step + 1, tensors, {"log": log_state, "kept": kept}))
        self._kept_at = time.monotonic()
        if wish == 2:
            raise KeyboardInterrupt

    def result(self) -> dict[str, Tensor]:
        """The weights after the steps so far, or their average."""
        if self.average is None:
            return engines.weights(self.engine)
        return {name: tensor.clone() for name, tensor in self.average.weights.items()}

    def _check(self, step: int, losses: Sequence[float]) -> None:
        """Raises MienError if one of the last losses or gradients, those up to `step`, is not finite."""
        norms = torch.stack(self._norms).tolist() if self._norms else []
        wrong = [(at, f"loss is {loss}") for at, loss in _not_finite(losses, step)]
        wrong += [(at, "gradients are not finite") for at, _ in _not_finite(norms, step)]
        if wrong:
            self._fail(*min(wrong, key=lambda each: each[0]))

    def _fail(self, step: int, what: str) -> NoReturn:
        """Keeps the batch of the step and raises MienError."""
        file = self.session.work / f"{self.name}-batch-{step}.safetensors"
        if ranks.rank() == 0:
            with ranks.alone():
                weights.save(file, self.batch_at(step))
        raise MienError(
            f"{self.name}: the {what} at step {step}: lower that stage's lr or clip, or look at its batch, {file}"
        )


def _not_finite(values: Sequence[float], step: int) -> list[tuple[int, float]]:
    """Of the values of the last steps, those up to `step`, the ones that are not finite, each with its step."""
    return [(at, value) for at, value in enumerate(values, step - len(values) + 1) if not math.isfinite(value)]


def step_seed(seed: int, name: str, step: int) -> int:
    """The seed of everything random in one step of one stage."""
    return int(np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0])
