"""Pixels by decord, for frames whose count, order and time PyAV has found. Runs in the decoder child only.

decord 0.6.0 indexes packets, not frames; it keeps times as float32, repeats frames at the end of a file that states a
wrong length, ignores mirrored display matrices, and decodes ahead without limit. So its index is compared with PyAV's.
Frames are read in segments of limited size, and a seek after each empties decord's queues. And its pictures are
compared with PyAV's: all of them, or, if frames are sampled by index, one in each segment. Any difference is a
`Refusal`: the parent goes on with PyAV alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import decord
import numpy as np

from ingest.decode.child.easel import Easel
from ingest.decode.child.index import Alive, Index
from ingest.decode.child.source import Refusal, Source

if TYPE_CHECKING:
    from ingest.decode.child.program import Frames, Message, Ring

SEGMENT_BYTES = 64 << 20
TOLERANCE = 6.0  # a larger mean absolute difference of 8-bit values means another frame; rounding gives less
MIN_TOLERANCE_S = 0.002
STEP = 8  # every 8th row and column is compared

Row = tuple[int, float, np.ndarray]


def give(source: Source, frames: Frames, easel: Easel, ring: Ring, request: Message) -> None:
    """Puts one frame in `request["every"]` into the ring, beginning with the first."""
    every = request["every"]
    rows = all_frames(source, frames, easel) if every == 1 else sampled_frames(source, easel, every, ring.alive)
    try:
        for index, time_s, picture in rows:
            ring.put(index, time_s, partial(copy, picture))
    except BaseException:
        ring.drop_last()  # PyAV, which takes over, gives that frame again
        raise


def all_frames(source: Source, frames: Iterator[tuple[float, Any]], easel: Easel) -> Iterator[Row]:
    """(frame_index, time_s, rgb) of every frame. PyAV decodes all of them too, and each picture is compared."""
    reader = _Reader(source, easel)
    proven = ((index, time_s, reader.proof(frame)) for index, (time_s, frame) in enumerate(frames))
    while segment := list(itertools.islice(proven, reader.segment)):
        indices, times, _ = zip(*segment, strict=True)
        for (index, time_s, proof), picture in zip(segment, reader.read(indices, times), strict=True):
            reader.compare(index, picture, proof)
            yield index, time_s, picture


def sampled_frames(source: Source, easel: Easel, every: int, alive: Alive) -> Iterator[Row]:
    """(frame_index, time_s, rgb) of one frame in `every`, by seeking: not all frames between are decoded. `alive` is
    called at each step that gives no frame."""
    index = Index(source, alive)
    source.leave(len(index), float(index.times[-1]))
    reader = _Reader(source, easel)
    if reader.frames != len(index):
        raise Refusal("decode_error", "decord counts other frames than there are")
    wanted = iter(range(0, len(index), every))
    while segment := list(itertools.islice(wanted, reader.segment)):
        times = index.times[segment]
        pictures = reader.read(segment, times, alive)
        reader.compare(segment[0], pictures[0], reader.proof(index.frame(segment[0])))
        yield from zip(segment, times.tolist(), pictures, strict=True)


def copy(picture: np.ndarray, target: np.ndarray) -> None:
    """`picture` into `target`, of the same shape."""
    np.copyto(target, picture)


class _Reader:
    """decord's reader of the same stream, with pictures of the easel's size."""

    def __init__(self, source: Source, easel: Easel) -> None:
        if easel.mirrored:
            raise Refusal("decode_error", "decord ignores that it is mirrored")
        self._easel = easel
        self._scratch = np.empty((easel.height, easel.width, 3), np.uint8)
        self._shape = (easel.height, easel.width, 3)
        self._tolerance_s = max(source.period_s / 2, MIN_TOLERANCE_S)
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        self.segment = max(1, SEGMENT_BYTES // math.prod(self._shape))
        start, base = source.stream.start_time, source.stream.time_base
        # decord's times begin with the stream, mien's with the container.
        offset_s = float(start * base) - source.start_s if start is not None else 0.0
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

    def read(
        self, indices: Sequence[int], times: Sequence[float] | np.ndarray, alive: Alive = lambda: None
    ) -> list[np.ndarray]:
        """The frames with these indices, uint8 [height, width, 3] each. Refusal if decord has other times for them."""
        if indices[-1] >= self.frames:
            raise Refusal("decode_error", "decord's index ends before the video does")
        if np.abs(self._times[list(indices)] - times).max() > self._tolerance_s:
            raise Refusal("decode_error", "decord's index has another frame in this place")
        pictures = []
        try:
            for index in indices:
                pictures.append(self._video[index].asnumpy())
                alive()
            self._video.seek(0)
        except self._errors as error:
            raise Refusal("decode_error", f"decord failed: {str(error).splitlines()[0][:200]}") from error
        if any(picture.shape != self._shape for picture in pictures):
            raise Refusal("decode_error", "decord gives pictures of another size")
        return pictures

    def proof(self, frame: Any) -> np.ndarray:
        """The pixels of PyAV's frame that `compare` needs."""
        self._easel.draw(frame, self._scratch)
        return self._scratch[::STEP, ::STEP].astype(np.int16)

    @staticmethod
    def compare(index: int, picture: np.ndarray, proof: np.ndarray) -> None:
        """Raises Refusal if decord's picture differs from PyAV's."""
        if np.abs(picture[::STEP, ::STEP] - proof).mean() > TOLERANCE:
            raise Refusal("decode_error", f"decord has another picture for frame {index}")
