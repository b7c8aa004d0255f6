"""Pixels by decord, for frames whose count, order and time PyAV has established. Runs in the decoder child only.

decord 0.6.0 indexes packets, not frames, keeps times as float32, repeats frames at the end of a file that lies about
its length, and decodes ahead of its consumer without bound. So its index is held against PyAV's, frames are asked for
a bounded segment at a time, after which a seek empties its queues, and pictures are compared where PyAV decodes as
well. Any disagreement is a `Refusal`: the parent goes on with PyAV alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import decord
import numpy as np

from ingest.decode_av import Easel, Refusal, Source

SEGMENT_BYTES = 64 << 20
TOLERANCE = 6.0  # mean absolute difference of 8-bit values: another frame, not another way of rounding
MIN_TOLERANCE_S = 0.002
STEP = 8  # every such row and column is compared

Row = tuple[int, float, np.ndarray]


def all_frames(source: Source, frames: Iterable[tuple[float, Any]], easel: Easel) -> Iterator[Row]:
    """(frame_index, time_s, rgb) of every frame: PyAV decodes beside decord, each picture is checked."""
    reader = _Reader(source, easel)
    scratch = np.empty((easel.height, easel.width, 3), np.uint8)

    def proven() -> Iterator[tuple[int, float, np.ndarray]]:
        for index, (time_s, frame) in enumerate(frames):
            easel.draw(frame, scratch)
            yield index, time_s, scratch[::STEP, ::STEP].astype(np.int16)

    rows = proven()
    while segment := list(itertools.islice(rows, reader.segment)):
        indices, times, _ = zip(*segment, strict=True)
        pictures = reader.read(indices, times)
        for (index, time_s, proof), picture in zip(segment, pictures, strict=True):
            if np.abs(picture[::STEP, ::STEP] - proof).mean() > TOLERANCE:
                raise Refusal("decode_error", f"decord has another picture for frame {index}")
            yield index, time_s, picture


def sampled_frames(source: Source, easel: Easel, every: int) -> Iterator[Row]:
    """(frame_index, time_s, rgb) of one frame in `every`, by seeking: the frames between are not all decoded."""
    times = _times(source)
    source.frames, source.end_s = len(times), float(times[-1]) + source.period_s
    reader = _Reader(source, easel)
    if reader.frames != len(times):
        raise Refusal("decode_error", "decord counts other frames than there are")
    wanted = iter(range(0, len(times), every))
    while segment := list(itertools.islice(wanted, reader.segment)):
        chosen = times[segment]
        yield from zip(segment, chosen.tolist(), reader.read(segment, chosen), strict=True)


def copy(picture: np.ndarray, target: np.ndarray) -> None:
    """`picture` into `target`, of the same shape."""
    np.copyto(target, picture)


def _times(source: Source) -> np.ndarray:
    """Times of all frames, float64, from the packets, which need not be decoded. Packets that give no frame sit at
    the ends of a file, so its first and last group of pictures are decoded after all."""
    container, stream = source.container, source.stream
    container.seek(stream.start_time or 0, stream=stream)
    packets = [packet for packet in container.demux(stream) if packet.size]
    if any(packet.pts is None for packet in packets):
        raise Refusal("decode_error", "its packets have no times")
    pts = {packet.pts for packet in packets if not packet.is_discard}
    keys = sorted(packet.pts for packet in packets if packet.is_keyframe)
    if not keys:
        raise Refusal("decode_error", "it has no key frame")
    for low, high in ((-math.inf, keys[min(1, len(keys) - 1)]), (keys[-1], math.inf)):
        container.seek(int(max(low, keys[0])), stream=stream)
        shown = set()
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts >= high:
                break
            shown.add(frame.pts)
        pts = {p for p in pts if p in shown or not low <= p < high}
    base = stream.time_base
    return np.array([p * base.numerator / base.denominator - source.start_s for p in sorted(pts)])


class _Reader:
    """decord's reader of the same stream, in pictures of the easel's size."""

    def __init__(self, source: Source, easel: Easel) -> None:
        self._shape = (easel.height, easel.width, 3)
        self._tolerance_s = max(source.period_s / 2, MIN_TOLERANCE_S)
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        self.segment = max(1, SEGMENT_BYTES // math.prod(self._shape))
        start, base = source.stream.start_time, source.stream.time_base
        offset_s = float(start * base) - source.start_s if start is not None else 0.0  # decord counts from the stream's
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._video = decord.VideoReader(source.path, width=easel.width, height=easel.height, num_threads=1)
            stamps = self._video.get_frame_timestamp(range(len(self._video)))
        except self._errors as error:
            raise Refusal("decode_error", f"decord cannot open it: {str(error).splitlines()[0][:200]}") from error
        self._times = stamps[:, 0].astype(np.float64) + offset_s
        self.frames = len(self._times)
        if not self.frames:
            raise Refusal("decode_error", "decord has no index of it")

    def read(self, indices: Sequence[int], times: Sequence[float] | np.ndarray) -> np.ndarray:
        """The frames with these indices, which are at these times: uint8 [N, height, width, 3]."""
        if indices[-1] >= self.frames:
            raise Refusal("decode_error", "decord's index ends before the video does")
        if np.abs(self._times[list(indices)] - times).max() > self._tolerance_s:
            raise Refusal("decode_error", "decord's index has another frame in this place")
        try:
            pictures: np.ndarray = self._video.get_batch(list(indices)).asnumpy()
            self._video.seek(0)
        except self._errors as error:
            raise Refusal("decode_error", f"decord failed: {str(error).splitlines()[0][:200]}") from error
        if pictures.shape[1:] != self._shape:
            raise Refusal("decode_error", "decord gives pictures of another size")
        return pictures
