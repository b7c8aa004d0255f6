"""The training loop beside plain PyTorch, the pictures that it can be fed, and the memory that they take.

    python -m benchmarks.train [--model vit-b]

Pretraining by a masked autoencoder, on the GPU if there is one. `plain` is a loop of plain PyTorch over pictures in
memory. `loop` is mien's over the same pictures; `streamed` is mien's with pictures of a lake, read, decoded and
augmented as in `mien train`; `loader` makes these batches and trains nothing. Two processes: `ddp` is plain PyTorch
with DistributedDataParallel, `zero 1` mien's loop. On a CPU each process has one thread. `vit-b`, which a GPU gets, is
MAE of ViT-B/16 in bfloat16 with torch.compile: 58.7 GFLOP a picture (that decides the MFU). Memory is the peak of a
process that copies a set of pictures from a lake and reads some of it, less what it had before.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.support import pictures
from benchmarks.support.harness import Result, parser, run
from common import environment
from common.bundle.manifest import Preprocess
from common.lake.layout import Lake
from common.store.store import Store
from train import loop, objectives, optimiser, processes, speed
from train import recipe as recipes
from train.data.ahead import ahead, threads
from train.data.augment import augment
from train.data.crops import CropReader, Crops
from train.data.order import batch_indices
from train.data.sources import Source
from train.models import ranks
from train.objectives import Batch
from train.recipe import Recipe
from train.stage_options import MaeStage

CROP = 112
SIDE = 32  # px of the many pictures whose memory is measured
GFLOP = 58.7  # of a picture, MAE of ViT-B/16 at 224 px, forwards and backwards (a product and sum are two)
WARM = 5  # steps before the clock starts
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Timed(objectives.MaePretrain):
    """Says when a step begins, by `note`: the same for all ways of training."""

    note: Callable[[], None]

    def forward(self, batch: Batch) -> Tensor:
        self.note()
        return super().forward(batch)


class Case:
    """What is trained, for how long, on which pictures."""

    def __init__(self, options: Namespace, folder: Path) -> None:
        model = options.model or ("small" if DEVICE == "cpu" else "vit-b")
        self.recipe: Recipe = recipes.load("mae-tcn") if model == "vit-b" else recipes.load("demo")
        assert self.recipe.mae is not None
        self.is_vit_b, self.steps, self.folder = model == "vit-b", options.steps, folder
        batch = options.batch or (16 if options.quick else self.recipe.mae.batch)
        short = {"steps": self.steps, "epochs": None, "warmup": 1, "warmup_epochs": None, "batch": batch}
        self.stage: MaeStage = self.recipe.mae.model_copy(update=short)
        self.precision = loop.resolve_precision("auto", DEVICE)
        self.compiled = self.is_vit_b and DEVICE != "cpu"

    def crops(self) -> Crops:
        lake = Lake(str(self.folder / "lake"))
        reader = CropReader(lake, self.recipe.preprocess, CROP, self.folder / "cache")
        return reader.crops(reader.partition(Source(), "data"))

    def batch_at(self, crops: Crops, step: int) -> Batch:
        """As the stage `mae` makes it."""
        chosen = ranks.mine(batch_indices(len(crops.keys), self.stage.batch, step, 0))
        rng = np.random.default_rng(loop.step_seed(0, "mae", step))
        return {"images": torch.from_numpy(augment(crops.images(chosen), self.stage.augment, rng))}

    def objective(self, begun: list[float]) -> Timed:
        torch.manual_seed(0)
        made = Timed(self.recipe)
        made.model.encoder.norm.requires_grad_(False)  # pretraining has no use for it, which DDP does not accept
        made.note = lambda: self.note(begun)
        return made

    def note(self, begun: list[float]) -> None:
        """Adds the time now, in the first step after the warm-up and in the last one; in the others nothing."""
        begun.append(clock() if len(begun) in (WARM, self.steps - 1) else 0.0)

    def samples_s(self, begun: list[float]) -> float:
        return (self.steps - 1 - WARM) * self.stage.batch / (begun[self.steps - 1] - begun[WARM])

    def row(self, name: str, samples_s: float, wait: float | None = None) -> list[Any]:
        peak = speed.peak(torch.cuda.get_device_name(), self.precision) if DEVICE == "cuda" else None
        mfu = samples_s * GFLOP * 1e9 / peak if peak and self.is_vit_b else None
        return [name, samples_s, wait, mfu, None]


def plain(case: Case, batches: list[Batch], parallel: bool = False) -> float:
    """Samples per second of a loop of plain PyTorch."""
    begun: list[float] = []
    objective = case.objective(begun).to(DEVICE).train()
    adamw = optimiser.build(objective, case.stage, DEVICE)
    if case.compiled:
        objective.model.compile()
    network = DistributedDataParallel(objective) if parallel else objective
    held = [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches]
    for step in range(case.steps):
        optimiser.set_rate(adamw, case.stage.lr)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=case.precision == "bfloat16"):
            loss: Tensor = network(held[step % len(held)])
        loss.backward()
        if case.stage.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), case.stage.clip)
        adamw.step()
        adamw.zero_grad()
    return case.samples_s(begun)


def fitted(case: Case, batch_at: Callable[[int], Batch], examples: int) -> tuple[float, float]:
    """Samples per second of mien's loop, and the share of the time that it waited for data, as its log says."""
    begun: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        zero = 1 if ranks.size() > 1 else 0  # as `mien train` does
        session = loop.Session(0, zero, case.precision, DEVICE, Path(work), Store(work), compiled=case.compiled)
        loop.fit("mae", case.objective(begun), batch_at, case.stage, session, examples)
        log = Path(work) / "mae.jsonl"
        lines = list(map(json.loads, log.read_text().splitlines())) if ranks.rank() == 0 else []
    waited = [line["data_wait"] for line in lines if line["step"] > WARM]
    return case.samples_s(begun), float(np.mean(waited)) if waited else 0.0


def loaded(case: Case, crops: Crops) -> float:
    """Samples per second of batches that nothing is trained on."""
    made = ahead(partial(case.batch_at, crops), range(case.steps), threads())
    next(made)
    began = time.perf_counter()
    return sum(len(batch["images"]) for batch in made) / (time.perf_counter() - began)


def clock() -> float:
    """Seconds; of one process on a CPU those in which it computed, because others may compute, too."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if DEVICE == "cpu" and ranks.size() == 1 else time.perf_counter()


def of_one(case: Case, rounds: int) -> dict[str, Any]:
    """The best of so many rounds, of each way in one process."""
    torch.set_num_threads(1)
    crops = case.crops()
    held = [case.batch_at(crops, step) for step in range(4)]
    best: dict[str, Any] = {"plain": 0.0, "loop": (0.0, 0.0), "streamed": (0.0, 0.0), "loader": 0.0}
    with processes.process_group():
        for _ in range(rounds):
            best["plain"] = max(best["plain"], plain(case, held))
            best["loop"] = max(best["loop"], fitted(case, lambda step: held[step % 4], len(crops.keys)))
            best["streamed"] = max(best["streamed"], fitted(case, partial(case.batch_at, crops), len(crops.keys)))
            best["loader"] = max(best["loader"], loaded(case, crops))
    return best


def of_two(case: Case, rounds: int) -> None:
    """Prints samples per second of both ways of training with several processes, of which this is one."""
    crops, best = case.crops(), {"ddp": 0.0, "zero 1": 0.0}
    with processes.process_group(), ranks.sharing(case.stage.batch):
        held = [case.batch_at(crops, step) for step in range(4)]
        for _ in range(rounds):
            best["ddp"] = max(best["ddp"], plain(case, held, parallel=True))
            best["zero 1"] = max(best["zero 1"], fitted(case, lambda step: held[step % 4], len(crops.keys))[0])
        if ranks.rank() == 0:
            print(json.dumps(best))


def started(mode: str, folder: Path, workers: int) -> dict[str, float]:
    """What process 0 of so many prints, of those that do `mode` in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = environment.values() | (environment.threads(1) if workers > 1 else {})
    arguments = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], mode, str(folder)]
    group = [
        subprocess.Popen(arguments, env=common | environment.launched(rank, workers, port), stdout=subprocess.PIPE)
        for rank in range(workers)
    ]
    out = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        sys.exit(f"a process of {mode} failed")
    return json.loads(out[0].splitlines()[-1])


def remember(folder: Path) -> None:
    """Copies the lake in the folder, reads pictures at random; prints how much more memory that took at most, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now
    before = peak()
    preprocess = Preprocess(crop=(0, 0, SIDE), size=SIDE)
    reader = CropReader(Lake(str(folder)), preprocess, SIDE, folder / "cache", prepared=0)
    crops = reader.crops(reader.partition(Source(), "data"))
    for step in range(50):
        crops.images(batch_indices(len(crops.keys), 256, step, 0))
    print(json.dumps({"mb": peak() - before}))


def peak() -> float:
    """Most resident memory so far, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def measure(options: Namespace) -> Result:
    counts = (1_000, 4_000) if options.quick else (100_000, 1_000_000)
    rounds = 1 if options.quick else 3
    if options.quick:
        options.steps = 2 * WARM
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = Case(options, folder)
        pictures.lake(folder / "lake", 500 if options.quick else 4_000, CROP)
        one = of_one(case, rounds)
        two = started("--two", folder, 2) if DEVICE == "cpu" else None
        memory = {}
        for count in counts:
            place = folder / f"{count}"
            pictures.lake(place, count, SIDE)
            memory[count] = started("--remember", place, 1)["mb"]
            shutil.rmtree(place)
    rows = [case.row(way, *(one[way] if isinstance(one[way], tuple) else (one[way],))) for way in one]
    rows += [case.row(f"{way}, 2 processes", samples_s) for way, samples_s in (two or {}).items()]
    rows += [[f"{count} pictures", None, None, None, mb] for count, mb in memory.items()]
    few, many = (memory[count] for count in counts)
    ratios = {
        "loop_vs_bare": one["loop"][0] / one["plain"],
        "streamed_vs_bare": one["streamed"][0] / one["plain"],
        "loader_vs_need": one["loader"] / one["plain"],
        "memory_many_vs_few": many / few,
    }
    if two:
        ratios["zero1_vs_ddp"] = two["zero 1"] / two["ddp"]
    shape = f"batch {case.stage.batch}, {case.precision}, {case.steps} steps, best of {rounds}"
    return Result(
        f"masked autoencoding on {DEVICE}: {'ViT-B/16 at 224 px' if case.is_vit_b else 'a small ViT'}, {shape}",
        ["way", "samples/s", "data wait", "MFU", "MB"],
        rows,
        ratios,
        {"samples_s": one["loop"][0], "loader_s": one["loader"], "mb_few": few, "mb_many": many},
    )


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--model", choices=("small", "vit-b"), help="[default: vit-b on a GPU, else small]")
    made.add_argument("--batch", type=int, help="pictures a step [default: the recipe's]")
    made.add_argument("--steps", type=int, default=60, help="of each loop, in each round")
    made.add_argument("--two", type=Path, help=SUPPRESS)
    made.add_argument("--remember", type=Path, help=SUPPRESS)
    given = made.parse_args()
    if given.remember:
        remember(given.remember)
    elif given.two:
        if given.quick:
            given.steps = 2 * WARM
        of_two(Case(given, given.two), 1 if given.quick else 3)
    else:
        run("train", measure, made)
