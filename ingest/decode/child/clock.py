"""When frames are shown: the times that they state, made to ascend where those cannot be true."""

from __future__ import annotations

import math


class Clock:
    """Told the frames of a stream in presentation order, each with the time that the next one states.

    A stated time is kept exactly, however far from the one before, unless its neighbours contradict it. A single one
    that does not fit between them gives way to a time that does. Where the clock was set back (a recording joined from
    two), the frame comes right after the one before, and those that follow keep their distances from it.
    """

    def __init__(self, period_s: float) -> None:
        """`period_s`: how long a frame is shown that does not say so."""
        self._period_s = period_s
        self._offset_s = 0.0  # from what is stated to what is said
        self.frames = 0
        self.first_s = self.last_s = self.end_s = 0.0  # the first frame, the last one so far, and when that ends

    def tick(self, stated_s: float | None, following_s: float | None, duration_s: float | None = None) -> float:
        """The time of the next frame, in seconds, later than all before. None: not stated."""
        if stated_s is not None and self._offset_s and abs(stated_s - self.end_s) < self._period_s:
            self._offset_s = 0.0  # the clock was not set back after all
        now = self._time(_sum(stated_s, self._offset_s), _sum(following_s, self._offset_s))
        if self.frames:
            now = max(now, math.nextafter(self.last_s, math.inf))  # also where floats lie farther apart than frames
        else:
            self.first_s = now
        self.frames += 1
        self.last_s, self.end_s = now, now + (duration_s if duration_s and duration_s > 0 else self._period_s)
        return now

    def _time(self, stated: float | None, following: float | None) -> float:
        last = self.last_s if self.frames else -math.inf
        if following is not None and following <= last:
            following = None  # it cannot be true, or the clock was set back
        if stated is None:
            return self._before(following)
        if stated <= last:
            self._offset_s += self.end_s - stated if following is None else 0.0
            return self._before(following)
        if following is not None and following <= stated and self._nearer(following, stated):
            return self._before(following)
        return stated

    def _nearer(self, time_s: float, other_s: float) -> bool:
        return abs(time_s - self.end_s) < abs(other_s - self.end_s)

    def _before(self, following: float | None) -> float:
        """Right after the frame before, but before the next one."""
        if following is None:
            return self.end_s
        return min(self.end_s, (self.last_s + following) / 2) if self.frames else following - self._period_s


def _sum(time_s: float | None, offset_s: float) -> float | None:
    return None if time_s is None else time_s + offset_s
