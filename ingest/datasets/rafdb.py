"""RAF-DB's basic expressions: pictures with one of seven expressions.

The list says `train_00001.jpg 5`; the split is in the name. The aligned picture is `train_00001_aligned.jpg`, which is
what a row names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from common.errors import UsageError
from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Annotation, Dataset, Tally, of_pictures
from ingest.datasets.lines import class_of, space_separated
from ingest.datasets.media import Media

CLASSES = {
    "1": "surprise",
    "2": "fear",
    "3": "disgust",
    "4": "happiness",
    "5": "sadness",
    "6": "anger",
    "7": "neutral",
}
SPLITS = {"train": "train", "test": "validation"}
LIST = "EmoLabel/list_patition_label.txt"  # spelt so by its publisher


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each picture."""
    yield of_pictures(_listed(_basic(root) / LIST, tally), tally, _media(root), ["expr"])


def _basic(root: Path) -> Path:
    return root / "basic" if (root / "basic").is_dir() else root


def _listed(path: Path, tally: Tally) -> Iterator[Annotation]:
    for where, cells in space_separated(path, ("picture", "label"), tally):
        name = f"{Path(cells['picture']).stem}_aligned"
        part = name.partition("_")[0]
        if part not in SPLITS:
            raise UsageError(f"{where}: {name!r} begins with neither train_ nor test_: take the file as published")
        expression = class_of(CLASSES, cells["label"], where)
        yield Annotation(name, name, SPLITS[part], where, expression)


def _media(root: Path) -> Media:
    return Media(_basic(root), "Image/aligned")


DATASET = Dataset(
    title="RAF-DB, basic expressions",
    files={
        f"basic/{LIST}": "the labels: `train_00001.jpg 5`",
        "basic/Image/aligned/train_00001_aligned.jpg": "the aligned pictures",
    },
    source="for research, by request at http://www.whdeng.cn/RAF/model1.html",
    read=read,
    pictures=lambda root, rows: _media(root).pictures(rows),
    crops=lambda root: FileCrops(_media(root).find),
)
