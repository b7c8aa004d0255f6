"""FER+: the pictures of FER2013, labelled anew by the votes of ten people for one of eight expressions.

`fer2013new.csv` has a line for each row of `fer2013.csv`, in the same order, with the number of votes for each class,
for `unknown` and for `NF` (no face). The class with most votes is the label. The column `Image name` is not read: it is
empty where there is no face, and behind such rows its number is not always that of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa

from common.errors import UsageError
from ingest.datasets import fer2013
from ingest.datasets.dataset import Annotation, Dataset, Tally, of_pictures
from ingest.datasets.lines import Line, comma_separated, number
from ingest.datasets.media import Media

FILE = "fer2013new.csv"
CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
UNUSABLE = {"unknown": "most votes are for unknown", "NF": "most votes are for NF (no face)"}
COLUMNS = ("Usage", "Image name", *CLASSES, *UNUSABLE)


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each different picture on whose expression most people agree."""
    yield of_pictures(_voted(root, tally), tally, Media(root), ["expr"])


def _voted(root: Path, tally: Tally) -> Iterator[Annotation]:
    pictures = fer2013.rows(root, Tally())
    for picture, line in zip_longest(pictures, comma_separated(root / FILE, COLUMNS, tally)):
        if picture is None or line is None or picture.usage != line.cells["Usage"]:
            where = line.where if line else picture.where if picture else root
            raise UsageError(
                f"{where}: {FILE} and {fer2013.FILE} do not have the same rows, or not in the same order: "
                "take both as they were published"
            )
        label, votes = _most_voted(line, tally)
        if label:
            split = fer2013.split_of(picture)
            yield Annotation(picture.name, picture.same_as, split, line.where, label, votes=votes)


def _most_voted(line: Line, tally: Tally) -> tuple[str | None, int]:
    """The class and its votes; None if there is no such class, which is counted."""
    votes = {name: int(number(line.cells[name], line.where)) for name in (*CLASSES, *UNUSABLE)}
    most = max(votes.values())
    best = [name for name, count in votes.items() if count == most]
    if most < 1 or len(best) > 1:
        tally.drop("no class has most of the votes", line.where)
    elif best[0] in UNUSABLE:
        tally.drop(UNUSABLE[best[0]], line.where)
    else:
        return best[0], most
    return None, 0


DATASET = Dataset(
    title="FER+",
    files={FILE: f"columns {', '.join(COLUMNS)}: votes", **fer2013.FILES},
    source="labels: https://github.com/microsoft/FERPlus; pictures: " + fer2013.DATASET.source,
    read=read,
    pictures=fer2013.pictures,
    crops=fer2013.FerCrops,
)
