"""What a measurement is taken on, and the line that ends it."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

DEMO_CLIP = "demo/clips/videos/astronaut_000.mp4"
DEMO_BUNDLE = "demo/bundle"
PACKAGES = ("torch", "ray", "deepspeed", "av", "decord", "pyarrow")


def existing(path: str) -> Path:
    """The type of an argument that must be there; `make demo` makes what is measured unless another is named."""
    if not Path(path).exists():
        raise argparse.ArgumentTypeError(f"there is no {path}: run `make demo` first, or name another")
    return Path(path)


def last_line(benchmark: str, ratios: Mapping[str, float], figures: Mapping[str, float]) -> None:
    """Prints the benchmark's result for programs."""
    rounded = {"ratios": ratios, "figures": figures}
    found = {key: {name: round(value, 3) for name, value in values.items()} for key, values in rounded.items()}
    print(json.dumps({"benchmark": benchmark, **found, "machine": machine()}))


def machine() -> dict[str, object]:
    """Processor, cores, memory and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
