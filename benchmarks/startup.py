"""The time from the command to the first frames, in parts, and of a command with nothing to do; local and on Ray.

    python -m benchmarks.startup [--rounds 3]

Runs `mien score` on two short clips with the demo's networks, untrained. For each part it shows the seconds from the
start of the command to the end of the part, the shortest of all rounds. `frames` ends when the first frames are scored;
they were decoded somewhat earlier. On Ray, only the driver's parts can be measured.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support.harness import Result, parser, run

PARTS = {
    "imported": "the driver has imported the command",
    "planned": "the archive is listed and planned",
    "forked": "the first worker runs, all imported",
    "built": "its models are built",
    "frames": "the first frames are scored",
    "done": "all frames are scored and committed",
    "ended": "the command has ended",
    "idle": "a command with nothing to do has ended",
}


def traced(given: str, marks_file: str, *arguments: str) -> None:
    """Runs a command that was started at the time `given`, and writes when each of its parts ended."""
    from common import cli
    from common.progress import Progress
    from common.run import runner
    from common.run.watchdog import BUILDING, IDLE, Monitor

    marks: dict[str, float] = {}
    building = 0

    def mark(part: str) -> None:
        marks.setdefault(part, time.time() - float(given))

    def before(owner: Any, name: str, look: Callable[..., None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)  # Ray asks a method for its signature
        def looking(*arguments: Any, **options: Any) -> Any:
            look(*arguments, **options)
            return original(*arguments, **options)

        setattr(owner, name, looking)

    def beat(monitor: Monitor, worker: str, where: str, frames: int) -> None:
        nonlocal building
        building += where == BUILDING
        if building > 1:  # the first heartbeat of this kind is the driver's own
            mark("forked")
        if where not in (BUILDING, IDLE):
            mark("built")

    before(runner, "run", lambda *_: mark("imported"))
    before(runner, "_do", lambda *_: mark("planned"))
    before(Monitor, "beat", beat)
    before(Progress, "update", lambda *_, frames=0, **__: mark("frames") if frames else None)
    before(Progress, "__exit__", lambda *_: mark("done"))
    status = cli.main(arguments)
    Path(marks_file).write_text(json.dumps(marks))
    sys.exit(status)


def command(*arguments: object) -> dict[str, float]:
    """When each part of a command ended, in seconds after its start."""
    with tempfile.NamedTemporaryFile() as marks:
        given = time.time()
        told = [str(given), marks.name, *map(str, arguments)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.startup", "--traced", *told], capture_output=True, text=True, check=False
        )
        took = time.time() - given
        if done.returncode:
            sys.exit(f"the command failed: {done.stderr}")
        found: dict[str, float] = json.loads(Path(marks.name).read_text())
        return found | {"ended": took}


def measure(options: Namespace) -> Result:
    from benchmarks.support import bundles, clips

    rounds, ways = (1, ("local",)) if options.quick else (options.rounds, ("local", "ray"))
    shortest: dict[str, dict[str, float]] = {way: {} for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = bundles.write(folder / "bundle").path
        (folder / "clips").mkdir()
        for number in range(2):
            clips.write(folder / "clips" / f"{number}.mp4", clips.pictures(15, 320, 180), 1)
        for number in range(rounds):
            for way in ways:
                lake = folder / f"lake-{way}-{number}"
                score = ("score", folder / "clips", "--lake", lake, "--model", bundle, "--on", way)
                found = command(*score)
                found["idle"] = command(*score)["ended"]
                for part, seconds in found.items():
                    shortest[way][part] = min(seconds, shortest[way].get(part, seconds))
    rows = [[told, *(shortest[way].get(part) for way in ways)] for part, told in PARTS.items()]
    figures = {f"{way}_{part}_s": seconds for way, parts in shortest.items() for part, seconds in parts.items()}
    ratios = (
        {}
        if options.quick
        else {f"ray_to_local_{part}": shortest["ray"][part] / shortest["local"][part] for part in ("frames", "idle")}
    )
    return Result(
        "seconds since the command, of `mien score` on two clips",
        ["when", *ways],
        rows,
        ratios,
        figures,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--traced"]:
        traced(*sys.argv[2:])
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3, help="how often each command is given")
    run("startup", measure, made)
