"""Pixels by PyAV. Runs in the decoder child only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.decode.child.easel import Easel
    from ingest.decode.child.program import Frames, Message, Ring
    from ingest.decode.child.source import Source


def give(source: Source, frames: Frames, easel: Easel, ring: Ring, request: Message) -> None:
    """Puts one frame in `request["every"]` into the ring, from frame number `request["start"]` on."""
    for index, (time_s, frame) in enumerate(frames):
        if index >= request["start"] and index % request["every"] == 0:
            ring.put(index, time_s, partial(easel.draw, frame))
        else:
            ring.alive()
