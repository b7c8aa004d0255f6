"""The times of frames: the stated ones, corrected so that they always increase."""

from __future__ import annotations

import math


class Clock:
    """Gives each frame of a stream its time. Frames come in presentation order, each with the next frame's stated time.

    A stated time is kept exactly, however far it is from the time before, unless the neighbouring times contradict it.
    A single time that does not lie between its neighbours is replaced by one that does. If the times jump back (a file
    joined from two recordings), the frame follows directly on the one before, and later frames keep their distances.
    """

    def __init__(self, period_s: float) -> None:
        """`period_s`: how long a frame is shown if it states no duration."""
        self._period_s = period_s
        self._offset_s = 0.0  # is added to the stated times
        self.frames = 0
        self.first_s = self.last_s = self.end_s = 0.0  # the first frame, the last one so far, and when that ends

    def tick(self, stated_s: float | None, following_s: float | None, duration_s: float | None = None) -> float:
        """The time of the next frame in seconds, later than all times before. Arguments are None if not stated."""
        if stated_s is not None and self._offset_s and abs(stated_s - self.end_s) < self._period_s:
            self._offset_s = 0.0  # the times fit without the offset again: they had not really jumped back
        now = self._time(_sum(stated_s, self._offset_s), _sum(following_s, self._offset_s))
        if self.frames:
            now = max(now, math.nextafter(self.last_s, math.inf))  # for times so large that rounding makes them equal
        else:
            self.first_s = now
        self.frames += 1
        self.last_s, self.end_s = now, now + (duration_s if duration_s and duration_s > 0 else self._period_s)
        return now

    def _time(self, stated: float | None, following: float | None) -> float:
        last = self.last_s if self.frames else -math.inf
        if following is not None and following <= last:
            following = None  # it is wrong, or the times jump back there
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
        """The end of the previous frame, or an earlier time if the next frame leaves less room."""
        if following is None:
            return self.end_s
        return min(self.end_s, (self.last_s + following) / 2) if self.frames else following - self._period_s


def _sum(time_s: float | None, offset_s: float) -> float | None:
    return None if time_s is None else time_s + offset_s
