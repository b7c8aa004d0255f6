"""Ctrl-C and SIGTERM during training, or what stands for them: the step under way is finished and kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Request:
    """Whether this process was asked to end."""

    made = False


_asked = Request()


def ask() -> None:
    """Makes a request of trainings in other threads than the main one, which get no signals."""
    _asked.made = True


@contextmanager
def awaited() -> Iterator[Request]:
    """In the block, the first Ctrl-C or SIGTERM makes a request, another one ends the block with KeyboardInterrupt.

    Only the main thread gets signals; elsewhere `ask` makes the request.
    """
    request = Request()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True

    if threading.current_thread() is not threading.main_thread():
        yield _asked
        return
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
