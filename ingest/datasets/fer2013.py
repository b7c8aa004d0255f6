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
from common.store.base import file_version
from common.store.uris import canonical_uri
from ingest.datasets.crops import Listed
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
    found = {each.name: _grey(each) for each in rows(root, Tally()) if each.name in names}
    return (_rgb(found[row["base_video"]]) if row["base_video"] in found else None for row in wanted)


def _grey(picture: Picture) -> NDArray[np.uint8]:
    try:
        grey = np.array(picture.pixels.split(), np.int64)
    except ValueError:
        grey = np.array([-1])
    if grey.min() < 0 or grey.max() > 255:
        raise UsageError(f"{picture.where}: the pixels are not whole numbers from 0 to 255: unpack the file again")
    return grey.astype(np.uint8).reshape(SIDE, SIDE)


def _rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)


class FerCrops:
    """The pictures of the file, each with the URI of the file and then its name; all are read at the first one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._decoded: dict[str, NDArray[np.uint8]] = {}

    def listed(self, video: str) -> Listed | None:
        uri = f"{canonical_uri(str(self._root / FILE))}/{video}"
        return Listed(uri, self.version(uri), SIDE * SIDE)

    def version(self, uri: str) -> str:
        return file_version(Path(uri).parent.stat())

    def frames(self, uri: str) -> Iterator[NDArray[np.uint8] | None]:
        if not self._decoded:
            self._decoded = {each.name: _grey(each) for each in rows(self._root, Tally())}
        yield _rgb(self._decoded[Path(uri).name])


DATASET = Dataset(
    title="FER2013",
    files=FILES,
    source="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
    read=read,
    pictures=pictures,
    crops=FerCrops,
)
