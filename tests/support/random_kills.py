"""A training of two processes that is killed at random moments and started again each time, until it is through.

`python random_kills.py WORK KILLS SEED` leaves its weights in WORK/trained.safetensors. Each start is a fork of this
process, which has imported everything, so a kill costs a second and not ten.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.support.s3_server import free_port
from common import environment
from common.store.store import Store
from train import loop, processes
from train.data.order import batch_indices
from train.models import ranks
from train.objectives import Batch, Objective
from train.recipe import CheckpointOptions
from train.stage_options import StageOptions

EXAMPLES, BATCH, EPOCHS, WORLD = 45, 9, 60, 2
STEPS = EPOCHS * EXAMPLES // BATCH
PARTS = ("part~weights", "part~moments", "part~state", "complete")
GRACE_S = 1.5
BEGUN = "begun"  # a file that says that steps are computed


class Counted(Objective):
    """A small network with dropout, which counts how often each example has trained it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.PReLU(), ranks.Dropout(0.1), nn.Linear(16, 1))
        self.register_buffer("seen", torch.zeros(EXAMPLES))

    def forward(self, batch: Batch) -> Tensor:
        self.seen += ranks.total(torch.bincount(batch["example"], minlength=EXAMPLES).float())
        errors = (self.model(batch["x"])[:, 0] - batch["y"]) ** 2
        return ranks.total(errors.sum()) / ranks.whole(len(errors))


def batch_at(step: int) -> Batch:
    chosen = torch.from_numpy(ranks.mine(batch_indices(EXAMPLES, BATCH, step, 7, drop_last=True)))
    x = torch.randn(EXAMPLES, 6, generator=torch.Generator().manual_seed(1))[chosen]
    return {"x": x, "y": x[:, 0] * 2 - x[:, 1], "example": chosen}


def train(work: Path, every: int) -> None:
    """In one of the processes."""
    torch.set_num_threads(1)
    objective = Counted()

    def batch(step: int) -> Batch:
        (work / BEGUN).touch()
        return batch_at(step)

    stage = StageOptions(steps=STEPS, batch=BATCH, lr=0.01, warmup=3)
    session = loop.Session(7, 1, "float32", "cpu", work, Store(str(work)), CheckpointOptions(steps=every))
    with processes.process_group():
        loop.fit("toy", objective, batch, stage, session, EXAMPLES)
        if ranks.rank() == 0:
            save_file(objective.state_dict(), work / "trained.safetensors")


def started(work: Path, rank: int, port: int, fault: str, every: int) -> int:
    """A fork that trains; its process id."""
    child = os.fork()
    if child:
        return child
    os.environ |= environment.launched(rank, WORLD, port) | {"MIEN_FAULT": fault}
    try:
        train(work, every)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        os._exit(1)
    os._exit(0)


def attempt(work: Path, chance: random.Random, kill: bool) -> list[int]:
    """Trains until the end, or until something is killed; the exit statuses, negative for signals."""
    (work / BEGUN).unlink(missing_ok=True)
    moment, delay = None, chance.uniform(0, 0.8)
    victims = chance.choice(([0], [1], [0, 1], [])) if kill else []
    fault = f"checkpoint.{chance.choice(PARTS)}:kill" if kill and not victims else ""
    port, every = free_port(), chance.randint(1, 4) if kill else 50
    living = {rank: started(work, rank, port, fault, every) for rank in range(WORLD)}
    statuses: dict[int, int] = {}
    ended = None
    while living:
        for rank, child in list(living.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses[rank] = os.waitstatus_to_exitcode(status)
                del living[rank]
                ended = ended or time.monotonic()
        now = time.monotonic()
        if moment is None and (work / BEGUN).exists():
            moment = now + delay
        doomed = [rank for rank in victims if moment and now > moment] if ended is None else []
        for rank in living if ended and now > ended + GRACE_S else doomed:
            os.kill(living[rank], signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[rank] for rank in range(WORLD)]


def main(work: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(kills + 1):
        statuses = attempt(work, chance, number < kills)
        assert (-signal.SIGKILL in statuses) == (number < kills), f"start {number} ended with {statuses}"
    assert statuses == [0] * WORLD, statuses


if __name__ == "__main__":
    environment.DS_ACCELERATOR.set_default("cpu")
    # Once, before the forks: what a training imports on its way.
    import deepspeed  # noqa: F401
    import tensorboardX  # noqa: F401
    from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401

    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
