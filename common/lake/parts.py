"""Parquet parts on the local disk: written in bounded memory, read by row group, checked before they are published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.disk import speaking
from common.lake.schema import SORTED_BY

ROW_GROUP_ROWS = 524_288
ROW_GROUP_BYTES = 64 << 20  # in memory: writing or reading a part holds one row group
STAGED_ROW_GROUP_BYTES = 8 << 20  # smaller for staged pieces: while they are written, decoder and model need memory too


class PartWriter:
    """Writes tables to one file in row groups of even size; `footer` becomes its key-value metadata.

    `sorted_by`: columns by which the caller has sorted the rows, stated in the file; ignored if not in the schema.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        footer: Mapping[str, str],
        row_group_bytes: int = ROW_GROUP_BYTES,
        sorted_by: Sequence[str] = SORTED_BY,
    ) -> None:
        order = [pq.SortingColumn(schema.names.index(name)) for name in sorted_by if name in schema.names]
        self._speaking = partial(speaking, "write", str(path))
        with self._speaking():
            self._writer = pq.ParquetWriter(
                path,
                schema,
                version="2.6",
                compression="zstd",
                # JPEGs are compressed already. Only their headers, which repeat, shrink: the fastest level does that.
                compression_level={field.name: 1 if pa.types.is_binary(field.type) else 3 for field in schema},
                use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
                write_page_index=True,
                write_page_checksum=True,
                sorting_columns=order,
            )
        self.describe(footer)
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._row_group_bytes = row_group_bytes
        self._room = (ROW_GROUP_ROWS, row_group_bytes)
        self.rows = 0

    def describe(self, footer: Mapping[str, str]) -> None:
        """Adds key-value metadata."""
        self._writer.add_key_value_metadata(dict(footer))

    def write(self, table: pa.Table) -> None:
        """Raises `ValueError` (Arrow's) for a table that does not fit the schema."""
        step = max(1, self._row_group_bytes * len(table) // max(table.nbytes, 1))
        for start in range(0, len(table), min(step, ROW_GROUP_ROWS)):
            piece = table.slice(start, min(step, ROW_GROUP_ROWS)).cast(self._schema)
            if len(piece) > self._room[0] or piece.nbytes > self._room[1]:
                self._flush()
            self._waiting.append(piece)
            self._room = (self._room[0] - len(piece), self._room[1] - piece.nbytes)
            self.rows += len(piece)

    def close(self) -> None:
        self._flush()
        with self._speaking():
            self._writer.close()

    def abandon(self) -> None:
        """Closes a file that will not be used; ignores errors of the disk."""
        with suppress(OSError):
            self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            with self._speaking():
                self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._waiting = []
        self._room = (ROW_GROUP_ROWS, self._row_group_bytes)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def read_footer(file: BinaryIO | Path) -> dict[str, str]:
    """The key-value metadata of a part. Raises `ValueError` if it is not a complete Parquet file."""
    try:
        with pq.ParquetFile(file) as part:
            stored = part.metadata.metadata or {}
    except OSError as error:
        if error.errno is not None:
            raise  # an error of the operating system, not of the content
        raise ValueError(str(error)) from None
    return {key.decode(): value.decode() for key, value in stored.items() if key.startswith(b"mien.")}


def read_tables(path: Path) -> Iterator[pa.Table]:
    """The part's row groups, one at a time."""
    with pq.ParquetFile(path) as part:
        for group in range(part.num_row_groups):
            yield part.read_row_group(group, use_threads=False)


def by_video(tables: Iterable[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """(video_id, rows) of sorted tables, cut where the video changes; a video may come in several pieces."""
    for table in tables:
        ids = table["video_id"].combine_chunks().dictionary_encode()
        codes = ids.indices.to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(table)]
        for start, end in pairwise(starts):
            if end > start:
                yield ids[start].as_py(), table.slice(start, end - start)


def check_part(path: Path, schema: pa.Schema, rows: Mapping[str, int], frames: Mapping[str, int]) -> dict[str, int]:
    """Re-opens a written part and raises `ValueError` if a check fails. Returns video_id -> number of distinct frames.

    `rows`: video_id -> expected rows, for every video that has any; `frames`: video_id -> expected distinct frames, for
    the videos to be checked. Also checked: the schema, no NULL where it is not allowed, no NaN, and the order by
    (video_id, frame_index, track_id), which also excludes duplicates.
    """
    found_rows: dict[str, int] = {}
    found_frames: dict[str, int] = {}
    last: tuple[str, int, int] | None = None
    with pq.ParquetFile(path) as part:
        if not part.schema_arrow.equals(schema):
            raise ValueError(f"{path.name} has another schema than its table")
    for table in read_tables(path):
        check_values(table, schema)
        for video, piece in by_video([table]):
            frame = piece["frame_index"].to_numpy().astype(np.int64)
            track = pc.fill_null(piece["track_id"], -1).to_numpy().astype(np.int64)
            if last is not None and last[0] == video:
                frame, track = np.append(last[1], frame), np.append(last[2], track)
            elif last is not None and last[0] > video:
                raise ValueError(f"video {video} is out of order")
            else:
                found_frames[video] = 1
            step = np.diff(frame)
            if not np.all((step > 0) | ((step == 0) & (np.diff(track) > 0))):
                raise ValueError(f"rows of video {video} are out of order or doubled")
            found_frames[video] += int(np.count_nonzero(step))
            found_rows[video] = found_rows.get(video, 0) + len(piece)
            last = (video, int(frame[-1]), int(track[-1]))
    _expect("rows", found_rows, rows)
    _expect("frames", {video: found_frames.get(video, 0) for video in frames}, frames)
    return found_frames


def check_values(table: pa.Table, schema: pa.Schema) -> None:
    """Raises `ValueError` for a NULL where none is allowed, and for NaN."""
    for field in schema:
        column = table[field.name]
        if not field.nullable and column.null_count:
            raise ValueError(f"{field.name} is NULL where it must not be")
        if pa.types.is_floating(field.type) and pc.any(pc.is_nan(column)).as_py():
            raise ValueError(f"{field.name} is NaN, which must be NULL")


def _expect(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    found, wanted = ({video: count for video, count in counts.items() if count} for counts in (found, wanted))
    if found != wanted:
        video = min(found.items() ^ wanted.items())[0]
        raise ValueError(f"video {video} has {found.get(video, 0)} {what}, {wanted.get(video, 0)} were promised")
