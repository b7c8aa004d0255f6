"""`mien label`: a dataset's annotations into the lake's `labels` table.

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

CONTENT_KEY = "mien.content"
"""In the object's footer: the SHA-256 of its rows."""


@dataclass(frozen=True)
class Labelled:
    """What a run did. `outcome`: "created", "replaced" or "unchanged"."""

    dataset: str
    videos: int
    rows: int
    outcome: str


def label(dataset: str, root: Path, lake: Lake) -> Labelled:
    """Reads the dataset below `root` and puts its labels into the lake.

    Raises UsageError for an unknown dataset, a missing folder or a line that cannot be read (nothing is written), and
    StoreError if another run changes the same labels at the same time.
    """
    read = registry.reader(dataset)
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the one that holds the dataset's annotations")
    key = lake.part_key(Partition("labels", (("dataset", dataset),)), "labels")
    check(lake)
    with scratch.folder() as folder:
        part = Path(folder) / "labels.parquet"
        videos, rows, content = _write(part, read(root))
        claim(lake)
        return Labelled(dataset, videos, rows, _put(lake, key, part, content))


def _write(path: Path, tables: Iterator[pa.Table]) -> tuple[int, int, str]:
    """Writes the tables as one part; returns how many tables, how many rows, and the digest of the rows."""
    digest, videos, last = hashlib.sha256(), 0, ""
    with PartWriter(path, LABELS, {}, sorted_by=LABELS_SORTED_BY) as writer:
        for table in tables:
            last = _check(table, last)
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
            writer.write(table)
            videos += 1
        writer.describe({CONTENT_KEY: digest.hexdigest()})
    return videos, writer.rows, digest.hexdigest()


def _check(table: pa.Table, last: str) -> str:
    """Returns the table's video. Raises `ValueError` for rows that break a rule of the table `labels`.

    `last`: the video of the previous table, whose name must be smaller.
    """
    if not len(table):
        return last
    check_values(table, LABELS)
    (video,) = table["video"].unique().to_pylist()
    if not pc.all(pc.xor(table["frame_index"].is_valid(), table["clip"].is_valid())).as_py():
        raise ValueError(f"a label of {video} needs a frame or a clip, and not both")
    order = pc.sort_indices(table, [(name, "ascending") for name in LABELS_SORTED_BY]).to_numpy()
    if video <= last or np.any(np.diff(order) != 1):
        raise ValueError(f"the labels of {video} are out of order")
    return str(video)


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
