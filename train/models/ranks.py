"""What the processes that train one network share: the batch of a step, sums over it, and what is random in it.

Each process computes some examples of the batch. Losses and statistics are written as sums over all of them, and random
numbers are drawn for the whole batch, of which each process takes those of its examples. So one process and several
compute the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import UsageError

A = TypeVar("A")
# Of the batch under way in a thread: this process's examples, and how many all processes have.
_share: ContextVar[tuple[slice, int] | None] = ContextVar("share", default=None)


def size() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them. Process 0 alone measures and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def sharing(batch: int) -> Iterator[None]:
    """In the block, batches of so many examples are shared out; the shares differ by one example at most.

    Raises UsageError for a batch that is smaller than the number of processes.
    """
    if batch < size():
        raise UsageError(
            f"a batch of {batch} cannot be shared out to {size()} workers: raise that stage's batch, or start fewer"
        )
    with _having((_slice(rank(), batch), batch) if size() > 1 else None):
        yield


def _slice(process: int, batch: int) -> slice:
    """The examples of a process."""
    return slice(process * batch // size(), (process + 1) * batch // size())


@contextmanager
def alone() -> Iterator[None]:
    """In the block, batches are whole."""
    with _having(None):
        yield


@contextmanager
def _having(share: tuple[slice, int] | None) -> Iterator[None]:
    before = _share.set(share)
    try:
        yield
    finally:
        _share.reset(before)


@dataclass(frozen=True)
class Portion:
    """What a process computes at once of its part of a batch.

    mine: which examples of its part. weight: of the mean over this portion, as all processes have it, in the mean over
    the batch.
    """

    mine: slice
    weight: float
    _share: tuple[slice, int] | None

    @contextmanager
    def computed(self) -> Iterator[None]:
        """In the block, batches are this portion."""
        with _having(self._share):
            yield


def portions(batch: int, most: int | None) -> list[Portion]:
    """Cuts the part of this process into portions of about `most` examples; None: it stays whole.

    All processes have equally many portions, because they exchange sums in each.
    """
    parts = [len(range(batch)[_slice(process, batch)]) for process in range(size())]
    number = min(*parts, -(-max(parts) // (most or batch)))
    if number == 1:
        return [Portion(slice(None), 1.0, _share.get())]
    ends = [[n * part // number for n in range(number + 1)] for part in parts]
    first = _slice(rank(), batch).start
    return [
        Portion(
            slice(start, stop),
            sum(each[n + 1] - each[n] for each in ends) / batch,
            (slice(first + start, first + stop), batch),
        )
        for n, (start, stop) in enumerate(pairwise(ends[rank()]))
    ]


def mine(values: A, axis: int = 0) -> A:
    """Of values for the whole batch, an array or a tensor, those of this process's examples."""
    if (share := _share.get()) is None:
        return values
    sliced: Any = values
    return sliced[(slice(None),) * axis + (share[0],)]


def whole(examples: int) -> int:
    """How many examples the batch has of which this process has so many."""
    share = _share.get()
    return examples if share is None else share[1]


def total(values: Tensor) -> Tensor:
    """The sum over all processes, with gradients that are summed over them, too.

    So the mean of the processes' gradients, which DeepSpeed makes, is the gradient of a loss that all compute alike.
    """
    return values if size() == 1 else _Total.apply(values)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    values = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): leaves out the residual branch [N, ...] of some examples.

    They are the same however many processes share the batch.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = torch.empty((whole(len(x)), *[1] * (x.ndim - 1)), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * mine(kept) / (1 - self.p)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) of values [N, ...], the same however many processes share the batch."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = torch.empty((whole(len(x)), *x.shape[1:]), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * mine(kept) / (1 - self.p)
