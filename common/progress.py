"""How far a job is: a bar with rate and ETA on a terminal, a log line now and then elsewhere; both on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

from common import log

LINE_S = 30.0
BAR_S = 0.5


@dataclass(frozen=True)
class State:
    """A moment of a job; `eta_s` is None until something is finished, `doing` once something is done."""

    done: int
    total: int
    frames: int
    failed: int
    elapsed_s: float
    frames_per_s: float
    eta_s: float | None
    doing: str | None = None
    note: str | None = None


class Progress:
    """Counts what is done; any thread may call `update`.

    `total` is in `unit`s. If units differ much in cost (a video's bytes), `total_cost` and the `cost` of each update
    make the ETA follow the cost instead of the number.
    """

    def __init__(
        self,
        *,
        total: int,
        unit: str = "video",
        total_cost: int | None = None,
        interval_s: float | None = None,
        name: str | None = None,
        doing: Callable[[], str | None] = lambda: None,
        rate_of: str = "frame",
        note: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`name`: of what is counted; `rate_of`: what the `frames` of updates are, for those that count other things.

        `doing()` says what goes on while nothing is done, `note()` what else is shown; any thread may call them.
        """
        self._total = total
        self._unit = unit
        self._total_cost = total_cost
        self._terminal = sys.stderr.isatty()
        self._interval_s = interval_s or (BAR_S if self._terminal else LINE_S)
        self._lock = threading.Lock()
        self._done = self._frames = self._failed = self._cost = self._skipped = self._whole = 0
        self._name, self._doing, self._rate_of, self._note = name, doing, rate_of, note
        self._started = self._first = time.monotonic()
        self._over = threading.Event()
        # Only this thread draws, so an update costs a lock and four additions.
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._started = self._first = time.monotonic()
        if self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total_cost or self._total,
                file=sys.stderr,
                dynamic_ncols=True,
                miniters=1,
                mininterval=0,
                bar_format="{percentage:3.0f}%|{bar}| {desc}",
            )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._show()
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int = 0, frames: int = 0, failed: int = 0, cost: int = 0, whole: int = 0) -> None:
        """Adds what was done since: `done` of the total, of which `failed` failed, and `cost` of the total cost.

        Where frames are told before what they belong to is done, `whole` counts those of what is done now: the others
        are of work under way, which then counts for the ETA.
        """
        with self._lock:
            if frames and not done and not self._frames:
                self._first = time.monotonic()  # the time before is no measure of the time to come
            self._done += done
            self._frames += frames
            self._failed += failed
            self._cost += cost
            self._whole += whole

    def skip(self, done: int = 0, cost: int = 0) -> None:
        """Adds what an earlier run has done: it counts as done, but not for the rate and the ETA."""
        with self._lock:
            self._done += done
            self._cost += cost
            self._skipped += cost if self._total_cost else done

    def state(self) -> State:
        with self._lock:
            now = time.monotonic()
            elapsed_s = now - self._started
            done, total = (self._cost, self._total_cost) if self._total_cost else (self._done, self._total)
            made: float = done - self._skipped
            if self._whole:
                under_way = max(0, self._frames - self._whole) * made / self._whole
                made += min(under_way, total - done)
            left = max(total - self._skipped - made, 0)
            return State(
                done=self._done,
                total=self._total,
                frames=self._frames,
                failed=self._failed,
                elapsed_s=elapsed_s,
                frames_per_s=self._frames / elapsed_s if elapsed_s else 0.0,
                eta_s=(now - self._first) * left / made if made else None,
                doing=None if made or self._frames else self._doing(),
                note=self._note(),
            )

    def _tick(self) -> None:
        while not self._over.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        state = self.state()
        if self._bar is not None:
            self._bar.n = self._cost if self._total_cost else self._done
            words = _in_words(state, self._unit, self._rate_of)
            self._bar.set_description_str(f"{self._name}: {words}" if self._name else words)
            return
        told = {"name": self._name, "doing": state.doing, "note": state.note}
        log.get("progress").info(
            "progress",
            **{key: value for key, value in told.items() if value},
            unit=self._unit,
            done=state.done,
            total=state.total,
            failed=state.failed,
            elapsed_s=round(state.elapsed_s, 1),
            eta_s=None if state.eta_s is None else round(state.eta_s, 1),
            **{f"{self._rate_of}s": state.frames, f"{self._rate_of}s_per_s": round(state.frames_per_s, 1)},
        )


def _in_words(state: State, unit: str, rate_of: str) -> str:
    if state.doing:
        return f"{state.done}/{state.total} {unit}s, {state.doing} ({state.elapsed_s:.0f} s)"
    eta = "?" if state.eta_s is None else str(timedelta(seconds=round(state.eta_s)))
    words = [f"{state.done}/{state.total} {unit}s", f"{state.frames_per_s:.0f} {rate_of}s/s", f"ETA {eta}"]
    if state.failed:
        words.append(f"{state.failed} failed")
    if state.note:
        words.append(state.note)
    return ", ".join(words)
