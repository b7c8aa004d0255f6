"""How a model of one synthetic face reads the other: fine-tuned on the clips of one portrait, measured on the other's.

The demo's model is measured on clips of the two faces that it was trained on. Here only the pretrained encoder has seen
both, without labels; everything after it is trained on one portrait alone, for fewer steps, as there is half the data.
`make demo` makes the lake and the encoder that are taken by default.

    python -m benchmarks.cross_portrait [--lake LAKE] [--encoder FILE] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.machine import existing, last_line
from common.lake.layout import Lake
from ingest.synth.portraits import PORTRAITS
from train import job, recipe

METRICS = ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")
STEPS = ("finetune.steps=300", "finetune.warmup=15", "heads.temporal.steps=60")
QUICK = ("finetune.steps=2", "finetune.warmup=1", "heads.temporal.steps=2", "heads.temporal.warmup=1")


def measure(lake: Path, encoder: Path, seen: str, other: str, steps: tuple[str, ...]) -> dict[str, float]:
    """The metrics on the held-out clips of the portrait `other`, trained on the clips of `seen`."""
    keys = (f"init={encoder.absolute()}", f"data.train={seen}_*", f"data.validation={other}_*", *steps)
    with tempfile.TemporaryDirectory() as folder:
        made = job.run(recipe.load("demo", keys), Lake(str(lake)), Path(folder) / "bundle")
    return {name: made.manifest.metrics[name] for name in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", type=existing, default="demo/lake", help="of the clips of `mien synth`, with labels")
    parser.add_argument("--encoder", type=existing, default="demo/bundle.train/mae.safetensors")
    parser.add_argument("--quick", action="store_true", help="two steps a stage: whether it runs, not how good it is")
    arguments = parser.parse_args()
    steps = QUICK if arguments.quick else STEPS
    pairs = {f"{seen} to {other}": (seen, other) for seen in PORTRAITS for other in PORTRAITS if seen != other}
    found = {name: measure(arguments.lake, arguments.encoder, *pair, steps) for name, pair in pairs.items()}
    print(f"{'trained on, measured on':<24}" + "".join(f"{name:>17}" for name in METRICS))
    for name, metrics in found.items():
        print(f"{name:<24}" + "".join(f"{metrics[metric]:>17.3f}" for metric in METRICS))
    figures = {f"{name}, {metric}": value for name, metrics in found.items() for metric, value in metrics.items()}
    last_line("cross_portrait", {}, figures)


if __name__ == "__main__":
    main()
