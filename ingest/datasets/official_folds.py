"""Clips whose publisher gives five pairs of lists, `set_1` to `set_5`, with the clips to train on and to test on.

Each clip is in the test list of one set. That set's number less 1 is its `fold`. Its split is that of `set_1`, so a
training without cross-validation is the first fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from common.errors import UsageError
from ingest.datasets.dataset import Annotation, Tally

SETS = range(1, 6)


class Clip(NamedTuple):
    """A line of a list: a clip with its class, or None for one that has no single class."""

    name: str
    expression: str | None
    where: str


Lists = Callable[[int, str, Tally], Iterator[Clip]]
"""From the number of a set, 1 to 5, and "train" or "test" to the lines of that list."""


def folded(lists: Lists, tally: Tally) -> Iterator[Annotation]:
    """The clips of all test lists. Raises UsageError if a list contradicts another one."""
    folds: dict[str, int] = {}
    for number in SETS:
        for clip in lists(number, "test", tally):
            if folds.setdefault(clip.name, number) != number:
                raise UsageError(f"{clip.where}: {clip.name} is in the test list of set_{folds[clip.name]} as well")
            if clip.expression is None:
                tally.drop("it has no single expression", f"{clip.where}: {clip.name}")
                continue
            split = "validation" if number == 1 else "train"
            yield Annotation(clip.name, clip.name, split, clip.where, clip.expression, fold=number - 1)
    _check_training(lists, folds, tally)


def _check_training(lists: Lists, folds: dict[str, int], tally: Tally) -> None:
    """Nothing is trained on and tested on; what no set tests is counted as dropped."""
    untested: set[str] = set()
    for number in SETS:
        for clip in lists(number, "train", Tally()):
            if folds.get(clip.name) == number:
                raise UsageError(f"{clip.where}: {clip.name} is in the test list of set_{number} as well")
            if clip.name not in folds and clip.name not in untested:
                untested.add(clip.name)
                tally.annotations += 1
                tally.drop("it is in no test list", f"{clip.where}: {clip.name}")
