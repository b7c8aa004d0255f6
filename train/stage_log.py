"""What is shown and written while a stage trains: a progress bar, lines of JSON, and TensorBoard's event files."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from common.progress import Progress


class StageLog:
    """The log of one stage, in place of an older one: `<file>.jsonl` and `tensorboard/<file>/` in the work folder.

    A line has the stage, the step, the mean loss since the line before, the learning rate, examples per second since
    then (validation not counted), seconds since the start, and where the stage was validated after the step, `metrics`.
    """

    def __init__(self, name: str, work: Path, steps: int, batch: int, file: str) -> None:
        self._name, self._work, self._batch, self._file = name, work, batch, file
        self._loss: Tensor | None = None  # sum over the steps since the last line
        self._steps, self._busy_s, self._note = 0, 0.0, ""
        self._progress = Progress(total=steps, unit="step", name=name, rate_of="sample", note=lambda: self._note)
        self._open = ExitStack()

    def __enter__(self) -> StageLog:
        from tensorboardX import SummaryWriter

        events = self._work / "tensorboard" / self._file
        shutil.rmtree(events, ignore_errors=True)
        self._lines = self._open.enter_context((self._work / f"{self._file}.jsonl").open("w", buffering=1))
        self._events = self._open.enter_context(SummaryWriter(str(events), flush_secs=10))
        self._open.enter_context(self._progress)
        self._started = self._resumed = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def count(self, loss: Tensor) -> None:
        """Counts a step. Its loss may be on a GPU: it is not waited for."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        self._steps += 1
        self._progress.update(done=1, frames=self._batch)

    def mean_loss(self) -> float:
        """Of the steps since the last line. The time after this call, until the next line, does not count as theirs."""
        assert self._loss is not None
        mean = float(self._loss) / self._steps
        self._busy_s = time.monotonic() - self._resumed
        return mean

    def write(self, step: int, loss: float, rate: float, metrics: Mapping[str, float]) -> None:
        """Writes a line for the steps since the last one; a metric that is NaN is written as null."""
        speed = self._steps * self._batch / max(self._busy_s, 1e-9)
        known = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        line: dict[str, Any] = {"stage": self._name, "step": step, "loss": loss, "lr": rate}
        line |= {"samples_per_s": round(speed, 1), "wall_s": round(time.monotonic() - self._started, 3)}
        self._lines.write(json.dumps(line | ({"metrics": known} if known else {})) + "\n")
        scalars = {"loss": loss, "lr": rate, "samples_per_s": speed}
        scalars |= {f"validation/{name}": value for name, value in known.items() if value is not None}
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        self._note = f"loss {loss:.3g}"
        self._loss, self._steps, self._resumed = None, 0, time.monotonic()
