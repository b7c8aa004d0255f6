"""Notices from the workers' heartbeats that a job no longer makes progress, and ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common.errors import JobStalled, MienError

BUILDING = "building its models"
IDLE = "idle"
BUILDING_DEATHS = 3
POLL_S = 0.5  # how long a driver waits for results between two looks
LONGEST_LOOK_S = 15.0  # if more time passes between two looks, the driver itself was stopped


@dataclass(frozen=True)
class Beats:
    """All heartbeats so far: how many, how many frames they told of, and what each worker did last."""

    count: int = 0
    frames: int = 0
    where: dict[str, str] = field(default_factory=dict)


def in_words(where: Iterable[str]) -> str | None:
    """What workers that are `where` prepare; None if one of them is at a task."""
    places = set(where) - {IDLE}
    if not places:
        return "starting workers"
    return "loading models" if places == {BUILDING} else None


class Monitor:
    """Collects the workers' heartbeats. A worker that replaces a dead one has a new name."""

    def __init__(self) -> None:
        self._count = 0
        self._frames: dict[str, int] = {}
        self._where: dict[str, str] = {}

    def beat(self, worker: str, where: str, frames: int) -> None:
        """`where`: what the worker is doing; `frames`: how many it has done in all."""
        self._count += 1
        self._frames[worker] = frames
        self._where[worker] = where

    def heard(self) -> Beats:
        return Beats(self._count, sum(self._frames.values()), dict(self._where))


class Watchdog:
    """Raises if there is no heartbeat and no result for `stall_s` seconds, or if workers die before they can work.

    The driver calls `look` every few seconds. Time in which it could not, because the job was stopped (Ctrl-Z), does
    not count. `on_frames(n)` is called with the frames done since the last look; `before`: earlier heartbeats.
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

    def doing(self) -> str | None:
        """As `in_words`, by the heartbeats that were looked at last."""
        return in_words(self._seen.where.values())

    def finished(self) -> None:
        """A task was finished: the job makes progress, whatever workers have died until now."""
        self._silent_s = 0.0
        self._forgiven |= self._building()

    def look(self, heard: Beats | None) -> None:
        """`heard`: the heartbeats so far, None if the monitor did not answer.

        Raises `JobStalled`, or `MienError` if several workers in a row died while they built their models.
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
        # A dead worker is always replaced. If it died while it built its models, BUILDING stays its last heartbeat.
        building = len(self._building() - self._forgiven)
        if building > self._most_building:
            raise MienError(
                f"workers were killed {building - 1} times in a row while they built their models, most likely for "
                "lack of memory: run fewer of them with --workers"
            )

    def _building(self) -> set[str]:
        return {worker for worker, where in self._seen.where.items() if where == BUILDING}
