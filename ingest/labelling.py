"""`mien label`: a dataset's annotations into the lake's `labels` table, each of them a row or counted with a reason.

A dataset is one object: created the first time, replaced by a conditional put if the annotations have changed, and not
touched if they have not. So a reader sees either the old rows or the new ones, and a second run over the same files
writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common import scratch
from common.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError, UsageError
from common.lake.format import check, claim
from common.lake.layout import Lake, Partition
from common.lake.parts import PartWriter, check_values, read_footer
from common.lake.schema import LABELS, LABELS_SORTED_BY
from ingest.datasets import registry
from ingest.datasets.dataset import Dataset, Tally

CONTENT_KEY = "mien.content"
"""In the object's footer: the SHA-256 of its rows."""


@dataclass(frozen=True)
class Labelled:
    """What a run did. annotations: how many the dataset has; rows: of these, how many are in the lake; dropped: reason
    -> how many for this reason; first: reason -> where the first of them stands. outcome: "created", "replaced" or
    "unchanged"."""

    dataset: str
    videos: int
    annotations: int
    rows: int
    dropped: dict[str, int]
    first: dict[str, str]
    outcome: str


def label(dataset: str, root: Path, lake: Lake) -> Labelled:
    """Reads the dataset below `root` and puts its labels into the lake.

    Raises UsageError for an unknown dataset, a missing folder or a line that cannot be read (nothing is written), and
    StoreError if another run changes the same labels at the same time.
    """
    source = opened(dataset, root)
    key = lake.part_key(Partition("labels", (("dataset", dataset),)), "labels")
    check(lake)
    tally = Tally()
    with scratch.folder() as folder:
        part = Path(folder) / "labels.parquet"
        videos, rows, content = _write(part, source.read(root, tally))
        if rows + sum(tally.dropped.values()) != tally.annotations:
            raise ValueError(f"{tally.annotations} annotations, {rows} rows and {tally.dropped} do not agree")
        claim(lake)
        outcome = _put(lake, key, part, content)
    return Labelled(dataset, videos, tally.annotations, rows, tally.dropped, tally.first, outcome)


def opened(dataset: str, root: Path) -> Dataset:
    """The dataset of that name. Raises UsageError for an unknown one, and if `root` is not a folder."""
    source = registry.dataset(dataset)
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the one that holds the dataset's annotations")
    return source


def _write(path: Path, tables: Iterator[pa.Table]) -> tuple[int, int, str]:
    """Writes the tables as one part; returns how many videos, how many rows, and the digest of the rows."""
    digest, videos, last = hashlib.sha256(), 0, ""
    with PartWriter(path, LABELS, {}, sorted_by=LABELS_SORTED_BY) as writer:
        for table in tables:
            if not len(table):
                continue
            last = _check(table, last)
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
            writer.write(table)
            videos += pc.count_distinct(table["video"]).as_py()
        if not writer.rows:
            raise UsageError("the dataset's files have no annotation that can be used: nothing was written")
        writer.describe({CONTENT_KEY: digest.hexdigest()})
    return videos, writer.rows, digest.hexdigest()


def _check(table: pa.Table, last: str) -> str:
    """Returns the table's last video. Raises `ValueError` for rows that break a rule of the table `labels`.

    `last`: the last video of the previous table; all videos of this one must come after it.
    """
    check_values(table, LABELS)
    first, end = table["video"][0].as_py(), table["video"][-1].as_py()
    if not pc.all(pc.xor(table["frame_index"].is_valid(), table["clip"].is_valid())).as_py():
        raise ValueError(f"a label of {first} needs a frame or a clip, and not both")
    order = pc.sort_indices(table, [(name, "ascending") for name in LABELS_SORTED_BY]).to_numpy()
    if first <= last or np.any(np.diff(order) != 1):
        raise ValueError(f"the labels of {first} are out of order")
    return str(end)


def _put(lake: Lake, key: str, part: Path, content: str) -> str:
    try:
        lake.store.create(key, part)
        return "created"
    except AlreadyExists:
        entry = lake.store.stat(key)
    try:
        if _content(lake, key) == content:
            return "unchanged"
        lake.store.replace(key, part, entry.version if entry else "")
    except (NotFound, PreconditionFailed):
        raise StoreError(f"{lake.url}/{key} was changed by somebody else meanwhile: run the command again") from None
    return "replaced"


def _content(lake: Lake, key: str) -> str:
    """The digest of the stored rows."""
    with lake.store.open_input(key) as file:
        return read_footer(file).get(CONTENT_KEY, "")
