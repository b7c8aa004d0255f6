"""How well a model that was trained on one synthetic face reads the other, compared with one trained on both.

    python -m benchmarks.cross_portrait [--lake LAKE]

The demo's model is measured on clips of the two faces that it was trained on. Here the same pretrained encoder, which
has seen both faces without labels, is trained on the clips of one portrait, for fewer steps as there is half the data,
and measured on the clips of the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks.support.harness import Result, parser, run
from common import environment

METRICS = ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")
FEWER_STEPS = ("finetune.steps=300", "finetune.warmup=15", "heads.temporal.steps=60")
QUICK_STEPS = ("finetune.steps=2", "heads.temporal.steps=2")


def made_lake(folder: Path, size: tuple[str, ...]) -> Path:
    """A lake with the faces and labels of new clips; `size`: options of `mien synth`."""
    clips, lake = folder / "clips", folder / "lake"
    commands: list[tuple[str | Path, ...]] = [
        ("synth", clips, *size),
        ("ingest", clips / "videos", "--lake", lake),
        ("label", "synth", clips, "--lake", lake),
    ]
    for command in commands:
        subprocess.run([Path(sys.executable).parent / "mien", *command], stdout=sys.stderr, check=True)
    return lake


def trained(lake: Path, out: Path, *keys: str) -> list[float]:
    """Trains the demo's recipe with these keys changed; returns its metrics on the held-out clips."""
    from common.lake.layout import Lake
    from train import job, recipe

    metrics = job.run(recipe.load("demo", keys), Lake(str(lake)), out).manifest.metrics
    return [metrics[name] for name in METRICS]


def measure(options: Namespace) -> Result:
    environment.OMP_WAIT_POLICY.set_default("PASSIVE")  # before torch is imported, as `mien train` does
    from ingest.synth.portraits import PORTRAITS

    one, other = PORTRAITS
    whole, fewer = (("mae.steps=2", *QUICK_STEPS), QUICK_STEPS) if options.quick else ((), FEWER_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lake = options.lake or made_lake(home, ("--videos", "4", "--seconds", "1") if options.quick else ())
        found = {("both", "both"): trained(lake, home / "both", *whole)}
        (pretrained,) = (home / "both.train").glob("mae-*.safetensors")
        init = f"init={pretrained}"
        for seen, unseen in ((one, other), (other, one)):
            keys = (init, f"data.train={seen}_*", f"data.validation={unseen}_*", *fewer)
            found[seen, unseen] = trained(lake, home / seen, *keys)
    known, *crossed = found.values()
    names = [name.split("_", 1)[1] for name in METRICS]
    means = [sum(values) / len(values) for values in zip(*crossed, strict=True)]
    return Result(
        "agreement with the labels of held-out clips: CCC of valence and arousal, F1 of expressions and action units",
        ["trained on", "measured on", *names],
        [[*pair, *values] for pair, values in found.items()],
        {},
        dict(zip((f"{name}_unseen" for name in METRICS), means, strict=True))
        | dict(zip((f"{name}_seen" for name in METRICS), known, strict=True)),
    )


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--lake", type=Path, help="a lake with faces and labels of `mien synth` [default: made here]")
    run("cross_portrait", measure, options)
