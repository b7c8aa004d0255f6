"""Whether a job still moves: what its workers' heartbeats say, and when to give it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.errors import JobStalled, MienError

BUILDING = "building its models"
IDLE = "idle"
BUILDING_DEATHS = 3
POLL_S = 0.5  # how long a driver waits for results between two looks
LONGEST_LOOK_S = 15.0  # more time than this between two looks is time in which the driver itself was stopped


@dataclass(frozen=True)
class Beats:
    """What was heard so far: how many heartbeats, how many frames, and where each worker was last."""

    count: int = 0
    frames: int = 0
    where: dict[str, str] = field(default_factory=dict)


class Monitor:
    """Hears the workers' heartbeats. A worker that is started again comes with another name."""

    def __init__(self) -> None:
        self._count = 0
        self._frames: dict[str, int] = {}
        self._where: dict[str, str] = {}

    def beat(self, worker: str, where: str, frames: int) -> None:
        """`frames`: all that the worker has done."""
        self._count += 1
        self._frames[worker] = frames
        self._where[worker] = where

    def heard(self) -> Beats:
        return Beats(self._count, sum(self._frames.values()), dict(self._where))


class Watchdog:
    """Raises when no heartbeat and no result comes for `stall_s`, or when workers die before they begin.

    Look at it every few seconds; time in which nobody looked (a job that was stopped by Ctrl-Z) does not count.
    `on_frames` is told how many frames were done since the last look; `before`: what was heard before this one began.
    """

    def __init__(
        self,
        workers: int,
        stall_s: float,
        on_frames: Callable[[int], None],
        before: Beats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_building = workers + BUILDING_DEATHS
        self._stall_s, self._on_frames, self._clock = stall_s, on_frames, clock
        self._seen = before or Beats()
        self._forgiven = self._building()
        self._silent_s = 0.0
        self._looked = clock()

    def finished(self) -> None:
        """A task was finished: whatever died until now did not keep the job from going on."""
        self._silent_s = 0.0
        self._forgiven |= self._building()

    def look(self, heard: Beats | None) -> None:
        """`heard` is None when the monitor did not answer.

        Raises `JobStalled`, or `MienError` if workers in a row died while they built their models.
        """
        now = heard or self._seen
        self._silent_s += min(self._clock() - self._looked, LONGEST_LOOK_S)
        self._looked = self._clock()
        if now.count != self._seen.count:
            self._on_frames(max(0, now.frames - self._seen.frames))
            self._seen, self._silent_s = now, 0.0
        elif self._silent_s > self._stall_s:
            places = "; ".join(f"{worker} at {where}" for worker, where in sorted(now.where.items()) if where != IDLE)
            raise JobStalled(
                f"no progress for {self._stall_s:g} s, the job was ended: {places or 'no worker at work'}; "
                "run it again to go on"
            )
        # A dead worker is replaced without end, and the last that is heard of each such one is that it builds.
        building = len(self._building() - self._forgiven)
        if building > self._most_building:
            raise MienError(
                f"workers were killed {building - 1} times in a row while they built their models, most likely for "
                "lack of memory: run fewer of them with --workers"
            )

    def _building(self) -> set[str]:
        return {worker for worker, where in self._seen.where.items() if where == BUILDING}
