"""What is shown and written while a stage trains: a progress bar, lines of JSON, and TensorBoard's event files."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from common.disk import speaking
from common.progress import Progress
from train.models import ranks
from train.speed import Arithmetic


class StageLog:
    """The log of one stage: `<file>.jsonl` and `tensorboard/<file>/` in the work folder.

    A line has the stage, the step, the mean loss since the line before, the learning rate, examples per second since
    then (validation not counted), the share of that time in which steps waited for their data, `mfu` (`train.speed`)
    where it is known, seconds of training, and where the stage was validated after the step, `metrics`.
    Of several processes, process 0 alone writes. A stage that goes on keeps the lines of the steps it has; one that
    begins replaces an older log.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        steps: int,
        batch: int,
        file: str,
        arithmetic: Arithmetic,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """`state`: that of the log of the same stage when it was cut off. `arithmetic`: of a step of this process."""
        before = state or {"steps": 0, "losses": [], "wall_s": 0.0}
        self._name, self._work, self._batch, self._file = name, work, batch, file
        self._arithmetic = arithmetic
        self._first: int = before["steps"]
        self._losses: list[Tensor] = []  # of the steps since the last line, but for those of `state`
        self._earlier: list[float] = before["losses"]
        self._wall_s: float = before["wall_s"]
        self._done, self._counted, self._note = self._first, 0, ""
        self._busy_s = self._waited_s = 0.0
        self._progress = Progress(total=steps, unit="step", name=name, rate_of="sample", note=lambda: self._note)
        self._open = ExitStack()

    def __enter__(self) -> StageLog:
        self._started = self._resumed = time.monotonic()
        if ranks.rank() == 0:
            self._begin()
        return self

    def _begin(self) -> None:
        from tensorboardX import SummaryWriter

        events, lines = self._work / "tensorboard" / self._file, self._work / f"{self._file}.jsonl"
        if self._first and lines.exists():
            kept = [line for line in lines.read_text().splitlines(True) if _step(line) < self._first]
            lines.write_text("".join(kept))
        else:
            lines.write_text("")
            shutil.rmtree(events, ignore_errors=True)
        self._lines = self._open.enter_context(lines.open("a", buffering=1))
        # TensorBoard leaves out what an older file says of steps from `purge_step` on.
        self._events = self._open.enter_context(
            SummaryWriter(str(events), flush_secs=10, purge_step=self._first or None)
        )
        self._open.enter_context(self._progress)
        self._progress.skip(done=self._first)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For a block in which a step waits for its data."""
        began = time.monotonic()
        yield
        self._waited_s += time.monotonic() - began

    def count(self, loss: Tensor) -> None:
        """Counts a step. Its loss may be on a GPU: it is not waited for."""
        self._losses.append(loss.detach())
        self._counted += 1
        self._done += 1
        self._progress.update(done=1, frames=self._batch)

    def losses(self) -> list[float]:
        """Of the steps since the last line. The time after this call, until the next line, does not count as theirs."""
        values = torch.stack(self._losses).tolist() if self._losses else []
        self._busy_s = time.monotonic() - self._resumed
        return self._earlier + values

    def state(self) -> dict[str, Any]:
        """What the log of the same stage needs to go on, for JSON."""
        return {"steps": self._done, "losses": self.losses(), "wall_s": self._wall()}

    def write(self, step: int, losses: Sequence[float], rate: float, metrics: Mapping[str, float]) -> None:
        """Writes a line for the steps since the last one, whose losses are given; a metric that is NaN is null."""
        busy_s, loss = max(self._busy_s, 1e-9), math.fsum(losses) / len(losses)
        rates = {"samples_per_s": round(self._counted * self._batch / busy_s, 1)}
        rates["data_wait"] = round(self._waited_s / busy_s, 3)
        if (used := self._arithmetic.utilisation(self._counted, busy_s)) is not None:
            rates["mfu"] = round(used, 4)
        self._losses, self._earlier, self._counted, self._waited_s = [], [], 0, 0.0
        self._resumed = time.monotonic()
        if ranks.rank() != 0:
            return
        known = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        line: dict[str, Any] = {"stage": self._name, "step": step, "loss": loss, "lr": rate}
        line |= rates | {"wall_s": round(self._wall(), 3)}
        with speaking("write", self._lines.name):
            self._lines.write(json.dumps(line | ({"metrics": known} if known else {})) + "\n")
        scalars = {"loss": loss, "lr": rate, **rates}
        scalars |= {f"validation/{name}": value for name, value in known.items() if value is not None}
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        self._note = f"loss {loss:.3g}, {rates['data_wait']:.0%} waiting for data"
        if used is not None:
            self._note += f", MFU {used:.0%}"

    def _wall(self) -> float:
        return self._wall_s + time.monotonic() - self._started


def _step(line: str) -> int:
    """The step of a line of the log; of half a line, one that is after all others."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return sys.maxsize
