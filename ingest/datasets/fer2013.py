"""FER2013: grey pictures of 48x48 pixels with one of seven expressions, all in one CSV file.

A picture has the name of its row, counted from 0: `fer0000012`. The file has many pictures more than once, also in
different splits; all of them are named after the first one (`base_video`), so that they are one picture for everybody
who uses this dataset or FER+, which labels the same rows anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import UsageError
from ingest.datasets.dataset import Annotation, Dataset, Row, Tally, of_pictures
from ingest.datasets.lines import class_of, comma_separated
from ingest.datasets.media import Media

FILE = "fer2013.csv"
COLUMNS = ("emotion", "pixels", "Usage")
CLASSES = {
    "0": "anger",
    "1": "disgust",
    "2": "fear",
    "3": "happiness",
    "4": "sadness",
    "5": "surprise",
    "6": "neutral",
}
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SIDE = 48
FILES = {FILE: "columns emotion, pixels (48x48 numbers from 0 to 255) and Usage (the split)"}


class Picture(NamedTuple):
    """A row of the file. `same_as`: the name of the first row with the same picture, often its own."""

    name: str
    same_as: str
    emotion: str
    usage: str
    pixels: str
    where: str


def rows(root: Path, tally: Tally) -> Iterator[Picture]:
    """The rows of the file, in order. Raises UsageError for one without 48x48 pixels."""
    first: dict[bytes, str] = {}
    for position, (where, cells) in enumerate(comma_separated(root / FILE, COLUMNS, tally)):
        pixels = cells["pixels"]
        if pixels.count(" ") != SIDE * SIDE - 1:
            raise UsageError(f"{where}: expected {SIDE * SIDE} pixels, found {len(pixels.split())}: unpack it again")
        name = f"fer{position:07d}"
        same_as = first.setdefault(sha256(pixels.encode()).digest(), name)
        yield Picture(name, same_as, cells["emotion"], cells["Usage"], pixels, where)


def split_of(picture: Picture) -> str:
    if picture.usage not in SPLITS:
        raise UsageError(f"{picture.where}: {picture.usage!r} is no split, expected one of {', '.join(SPLITS)}")
    return SPLITS[picture.usage]


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each different picture."""
    found = (
        Annotation(each.name, each.same_as, split_of(each), each.where, class_of(CLASSES, each.emotion, each.where))
        for each in rows(root, tally)
    )
    yield of_pictures(found, tally, Media(root), ["expr"])


def pictures(root: Path, wanted: Sequence[Row]) -> Iterator[NDArray[np.uint8] | None]:
    """See `Dataset.pictures`. Reads the file once."""
    names = {row["base_video"] for row in wanted}
    found = {each.name: _decoded(each) for each in rows(root, Tally()) if each.name in names}
    return (found.get(row["base_video"]) for row in wanted)


def _decoded(picture: Picture) -> NDArray[np.uint8]:
    try:
        grey = np.array(picture.pixels.split(), np.int64)
    except ValueError:
        grey = np.array([-1])
    if grey.min() < 0 or grey.max() > 255:
        raise UsageError(f"{picture.where}: the pixels are not whole numbers from 0 to 255: unpack the file again")
    return np.repeat(grey.reshape(SIDE, SIDE, 1), 3, axis=2).astype(np.uint8)


DATASET = Dataset(
    title="FER2013",
    files=FILES,
    source="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
    read=read,
    pictures=pictures,
)
