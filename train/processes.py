"""The processes of a training, one or those that a launcher such as torchrun has started, and what they exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from common import environment, log
from common.errors import UsageError
from train.models import ranks

LOST = 76  # exit status of a process that ends as another one is lost
PATIENCE = timedelta(hours=6)  # the others wait while process 0 measures; a process that ends is noticed at once
_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
_entered = False


@contextmanager
def process_group() -> Iterator[None]:
    """A process group for the block, with DeepSpeed initialised on it. All of its processes end the block together.

    A group that a launcher has made is taken as it is. Ends the process, with a line in the log, when another one is
    lost.
    """
    global _entered
    if _entered:
        yield
        dist.barrier()
        return
    environment.LOCAL_RANK.set_default("0")
    environment.DS_ACCELERATOR.set_default("cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed

    log.adopt("DeepSpeed")
    # Creating DeepSpeed's CPU backend would compile this operator, which only its inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # ZeRO imports an optimiser that is not used here, whose functions would load torch's compiler: 4 s.
    deepspeed.runtime.compiler.compile = lambda: deepspeed.runtime.compiler.dummy_decorator
    if not dist.is_initialized():
        _join()
    _entered = True
    try:
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        if ranks.size() > 1 and ranks.rank() == 0:
            log.get("train").info("processes train together", count=ranks.size())
        yield
        dist.barrier()
    except RuntimeError as error:
        if ranks.size() == 1 or not any(words in str(error) for words in _SIGNS_OF_LOSS):
            raise
        log.get("train").error("another process of this training has ended", rank=ranks.rank())
        raise SystemExit(LOST) from None
    finally:
        _entered = False
        deepspeed.comm.destroy_process_group()  # not torch's: DeepSpeed would not know that its groups are gone


def _join() -> None:
    """Joins the processes that a launcher has started (its variables say which), or makes a group of one."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if int(environment.WORLD_SIZE.get() or 1) == 1:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        return
    needed = (environment.RANK, environment.LOCAL_RANK, environment.MASTER_ADDR, environment.MASTER_PORT)
    missing = [each.name for each in needed if each.get() is None]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set and {' and '.join(missing)} not: start mien train by itself, or by torchrun"
        )
    if torch.cuda.is_available():
        local, gpus = int(environment.LOCAL_RANK.get() or 0), torch.cuda.device_count()
        if local >= gpus:
            raise UsageError(f"this machine has too few GPUs for its workers: start no more than {gpus} on it")
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=PATIENCE)


def check_same(what: str, value: str) -> None:
    """Raises UsageError, in all processes, unless they have the same value of `what`."""
    mine = torch.frombuffer(bytearray(hashlib.sha256(value.encode()).digest()), dtype=torch.uint8)
    first = mine.clone()
    take_from_first({what: first})
    if highest(int(not torch.equal(mine, first))):
        raise UsageError(
            f"the processes of this training have different {what}: start all by the same command, with one version of "
            "mien and one lake"
        )


def highest(value: int) -> int:
    """The highest of the processes' values."""
    if ranks.size() == 1:
        return value
    found = torch.tensor(value, device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def total(values: Tensor) -> Tensor:
    """The sum of the processes' values, on the device where these are."""
    return ranks.total(values.to(_device())).to(values.device)


def take_from_first(tensors: Mapping[str, Tensor]) -> None:
    """Gives the tensors the values that they have in process 0."""
    if ranks.size() > 1:
        for tensor in tensors.values():
            there = tensor.detach().to(_device()).contiguous()
            dist.broadcast(there, 0)
            tensor.detach().copy_(there)


def _device() -> str:
    """Where the backend takes tensors."""
    return "cuda" if torch.cuda.is_available() else "cpu"
