"""`mien label`: a dataset's annotations into the lake's `labels` table.

A dataset is one object, put whole: created the first time, replaced by a conditional put when the annotations have
changed, left alone when they have not. So a reader sees the old rows or the new ones, never both, and a second run over
the same files does nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError, UsageError
from common.lake.layout import Lake, Partition
from common.lake.schema import LABELS
from ingest.datasets import affwild2

# What reads each dataset's folder: tables of the `labels` schema, one a video, by name.
DATASETS: dict[str, Callable[[Path], Iterator[pa.Table]]] = {"affwild2": affwild2.read, "synth": affwild2.read}

CONTENT_KEY = b"mien.content"
"""In the object's footer: the SHA-256 of its rows."""
ROWS_PER_GROUP = 65_536


@dataclass(frozen=True)
class Labelled:
    """What a run did. `outcome`: created, replaced or unchanged."""

    dataset: str
    videos: int
    rows: int
    outcome: str


def label(dataset: str, root: Path, lake: Lake) -> Labelled:
    """Reads the dataset below `root` and puts its labels into the lake.

    Raises UsageError for an unknown dataset, a missing folder or a line that cannot be read (nothing is written), and
    StoreError where another run changed the same labels meanwhile.
    """
    if dataset not in DATASETS:
        raise UsageError(f"no dataset {dataset!r}: choose one of {', '.join(sorted(DATASETS))}")
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the one that holds the dataset's annotations")
    key = lake.part_key(Partition("labels", (("dataset", dataset),)), "labels")
    with tempfile.TemporaryDirectory(prefix="mien-label-") as scratch:
        part = Path(scratch) / "labels.parquet"
        videos, rows, content = _write(part, DATASETS[dataset](root))
        return Labelled(dataset, videos, rows, _put(lake, key, part, content))


def _write(path: Path, tables: Iterator[pa.Table]) -> tuple[int, int, str]:
    """Writes the tables as one file; returns how many they were, their rows, and the digest of those."""
    digest, videos, rows = hashlib.sha256(), 0, 0
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, LABELS, compression="zstd", write_page_index=True) as writer:
        for table in tables:
            videos, rows = videos + 1, rows + len(table)
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
            waiting.append(table)
            if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
        writer.add_key_value_metadata({CONTENT_KEY: digest.hexdigest()})
    return videos, rows, digest.hexdigest()


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
    """The digest of the rows that are there now."""
    with lake.store.open_input(key) as file:
        return (pq.ParquetFile(file).metadata.metadata or {}).get(CONTENT_KEY, b"").decode()
