"""Results that threads make ahead of their use, such as the batches of training while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

from common.run.local import cpus
from train.objectives import Batch

A = TypeVar("A")
B = TypeVar("B")
_MOST_THREADS = 8


def threads() -> int:
    """How many threads make batches: a GPU's share of the processors; none where these do the training themselves."""
    if not torch.cuda.is_available():
        return 0
    return max(1, min(_MOST_THREADS, cpus() // torch.cuda.device_count()))


def on_its_way(batch_at: Callable[[int], Batch], device: str) -> Callable[[int], Batch]:
    """`batch_at` with batches in memory from which a GPU copies them while it computes."""
    if device == "cpu":
        return batch_at
    return lambda step: {key: value.pin_memory() for key, value in batch_at(step).items()}


def ahead(make: Callable[[A], B], items: Iterable[A], threads: int) -> Generator[B, None, None]:
    """`make(item)` of each item, in the order of the items. Without threads, each is made when it is asked for.

    A thread has its caller's context variables. At most one result more than there are threads is made ahead. What
    `make` raises comes up where its result is asked for. Close the iterator if it is not used up: that waits for the
    results under way.
    """
    if not threads:
        yield from map(make, items)
        return
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(copy_context().run, make, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()
