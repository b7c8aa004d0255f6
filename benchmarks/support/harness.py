"""What all benchmarks share: options, timing, and the form of the result.

Every module directly in `benchmarks/` is a benchmark, a program of this form:

    def measure(options: Namespace) -> Result: ...

    if __name__ == "__main__":
        run("name", measure, parser(__doc__))

With `--quick` it takes seconds and only shows that it works: the test suite runs every benchmark like this. A benchmark
makes its own data, so it needs neither `make demo` nor a user's file. It prints a table for people and then one line of
JSON: {"benchmark": name, "ratios": {...}, "figures": {...}, "machine": {...}}. Ratios compare two ways of doing one
thing in one run, so they can be compared between machines; figures cannot.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.support.machine import machine
from common.aligned import aligned

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Result:
    """`title`: what was measured, in which unit, on what; the first cell of each row is the row's name.

    A cell of None says that the row has no such value.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    ratios: Mapping[str, float]
    figures: Mapping[str, float]


def parser(doc: str | None) -> ArgumentParser:
    """The options that all benchmarks have; `doc`: the module's docstring."""
    made = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="take seconds, to see that it works; the figures say little")
    made.add_argument("--save", action="store_true", help="also write benchmarks/results/<date>-<name>.txt")
    return made


def run(name: str, measure: Callable[[Namespace], Result], options: ArgumentParser) -> None:
    """Measures, prints the table and the line of JSON, and with --save also writes both to a file."""
    given = options.parse_args()
    result = measure(given)
    told = f"{table(result)}\n{_line(name, result)}\n"
    print(told, end="", flush=True)
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        command = shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
        (RESULTS / f"{date.today()}-{name}.txt").write_text(f"{date.today()}, {command}\n{told}")


def table(result: Result) -> str:
    """The title and aligned columns."""
    cells = [[_told(cell) for cell in row] for row in result.rows]
    return "\n".join([result.title, *aligned([result.columns, *cells], [n > 0 for n in range(len(result.columns))])])


def _told(cell: str | float | None) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def _line(name: str, result: Result) -> str:
    measured = {"ratios": result.ratios, "figures": result.figures}
    found = {key: {each: round(value, 4) for each, value in values.items()} for key, values in measured.items()}
    return json.dumps({"benchmark": name, **found, "machine": machine()})


def side_by_side(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The shortest time that each way took, in seconds of `clock`.

    Every way runs once in every round, so that other load on the machine affects all of them.
    """
    shortest = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            way()
            shortest[name] = min(shortest[name], clock() - began)
    return shortest
