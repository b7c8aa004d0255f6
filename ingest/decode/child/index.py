"""Finds a stream's frames and their times from its packets, without decoding all. Runs in the decoder child only."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

from ingest.decode.child.source import Refusal, Source

Alive = Callable[[], None]


class Index:
    """The frames of a stream whose packets are one frame each. Raises Refusal for any other stream.

    times: float64 [N], the same that decoding all frames would give. Packets at both ends of a file may give no frame,
    so the first and the last group of pictures are decoded. `alive` is called at each of the many steps.
    """

    def __init__(self, source: Source, alive: Alive) -> None:
        if not source.whole_frames:
            raise Refusal("decode_error", "only decoding tells how many frames its packets hold")
        self._source, self._alive = source, alive
        self._pts, self._keys = self._packets()
        self._trim(-math.inf, self._keys[min(1, len(self._keys) - 1)])
        self._trim(self._keys[-1], math.inf)
        if not self._pts:
            raise Refusal("decode_error", "its packets give no frame")
        base = source.stream.time_base
        self.times = np.array([pts * base.numerator / base.denominator - source.start_s for pts in self._pts])

    def __len__(self) -> int:
        return len(self._pts)

    def frame(self, index: int) -> Any:
        """The frame (av.VideoFrame), decoded from the key frame before it. Refusal if the frames between differ."""
        pts = self._pts[index]
        key = self._keys[max(0, bisect.bisect_right(self._keys, pts) - 1)]
        known = iter(self._pts[bisect.bisect_left(self._pts, key) : index + 1])
        for frame in self._decoded(key):
            if frame.pts >= key and frame.pts != next(known):
                break
            if frame.pts == pts:
                return frame
        raise Refusal("decode_error", f"its packets before frame {index} are not the frames that they give")

    def _packets(self) -> tuple[list[int], list[int]]:
        """The PTS of all packets to be shown and of the key frames, both ascending."""
        shown, keys = [], []
        stream = self._source.stream
        with _refusing():
            self._source.container.seek(stream.start_time or 0, stream=stream)
            for packet in self._source.container.demux(stream):
                self._alive()
                if not packet.size:
                    continue
                if packet.pts is None:
                    raise Refusal("decode_error", "its packets have no times")
                if packet.is_keyframe:
                    keys.append(packet.pts)
                if not packet.is_discard:
                    shown.append(packet.pts)
        if not keys or len(set(shown)) < len(shown):
            raise Refusal("decode_error", "it has no key frame" if not keys else "two of its packets have one time")
        return sorted(shown), sorted(keys)

    def _trim(self, low: float, high: float) -> None:
        """Removes packets with `low` <= PTS < `high` that give no frame. Refusal if they are not at an end."""
        shown = set()
        for frame in self._decoded(int(max(low, self._keys[0]))):
            if frame.pts >= high:
                break
            shown.add(frame.pts)
        kept = [pts for pts in self._pts if not low <= pts < high or pts in shown]
        lost = set(self._pts).difference(kept)
        if kept and any(kept[0] < pts < kept[-1] for pts in lost):
            raise Refusal("decode_error", "a packet in its middle gives no frame")
        self._pts = kept

    def _decoded(self, pts: int) -> Iterator[Any]:
        stream = self._source.stream
        with _refusing():
            self._source.container.seek(pts, stream=stream)
            for frame in self._source.container.decode(stream):
                self._alive()
                if frame.pts is None or frame.interlaced_frame:
                    raise Refusal("decode_error", "its frames are fields, or have no times")
                yield frame


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise Refusal("decode_error", f"it cannot be read by packets: {error.strerror}") from error
