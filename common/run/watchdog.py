"""Whether a job still moves: what its workers' heartbeats say, and when to give it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.errors import JobStalled, MienError

BUILDING = "building its models"
IDLE = "idle"
BUILDING_DEATHS = 3


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

    `on_frames` is told how many frames were done since the last look.
    """

    def __init__(
        self,
        workers: int,
        stall_s: float,
        on_frames: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_building = workers + BUILDING_DEATHS
        self._stall_s, self._on_frames, self._clock = stall_s, on_frames, clock
        self._seen = Beats()
        self._forgiven: set[str] = set()
        self._since = clock()

    def finished(self) -> None:
        """A parcel was finished: whatever died until now did not keep the job from going on."""
        self._since = self._clock()
        self._forgiven |= self._building()

    def look(self, heard: Beats | None) -> None:
        """`heard` is None when the monitor did not answer.

        Raises `JobStalled`, or `MienError` if workers in a row died while they built their models.
        """
        now = heard or self._seen
        if now.count != self._seen.count:
            self._on_frames(max(0, now.frames - self._seen.frames))
            self._seen, self._since = now, self._clock()
        elif self._clock() - self._since > self._stall_s:
            places = "; ".join(f"{worker} at {where}" for worker, where in sorted(now.where.items()) if where != IDLE)
            raise JobStalled(
                f"no progress for {self._stall_s:g} s, the job was ended: {places or 'no worker at work'}; "
                "run it again to go on"
            )
        # Ray starts a dead worker again without end, and the last that is heard of each is that it builds.
        building = len(self._building() - self._forgiven)
        if building > self._most_building:
            raise MienError(
                f"workers were killed {building - 1} times in a row while they built their models, most likely for "
                "lack of memory: run fewer of them with --workers"
            )

    def _building(self) -> set[str]:
        return {worker for worker, where in self._seen.where.items() if where == BUILDING}
