"""Lakes built by hand: rows of every table, and parts put where the commit protocol leaves them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.commit.units import LISTING, Video
from common.lake import schema
from common.lake.format import claim
from common.lake.layout import Lake, Partition

PARTITIONS = {
    "scores": (("model", "m-1a"), ("archive", "clips")),
    "faces": (("ingest", "i2b"), ("archive", "clips")),
    "videos": (("job", "score-m-1a"), ("archive", "clips")),
    "labels": (("dataset", "synth"),),
}


def listing(videos: Iterable[Video]) -> pa.RecordBatch:
    """The videos as a job lists them."""
    rows = [{name: getattr(video, name) for name in LISTING.names} for video in videos]
    return pa.RecordBatch.from_pylist(rows, schema=LISTING)


def account(video: Video, **known: Any) -> dict[str, Any]:
    """A row of `videos`, as a worker makes it, of a video without frames unless `known` says more."""
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "video_name": video.name,
        "version": video.version,
        "size": video.size,
        "frames": 0,
        "frames_with_face": 0,
        "tracks": 0,
        "attempts": 1,
        "wall_s": 0.5,
        "run_id": "r1",
        "code_version": "0",
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
    } | known


def sample_rows(table: str, count: int, *, video: str = "a") -> pa.Table:
    """Rows of one video with a value of every column's type; in nullable columns every third is NULL."""
    columns = []
    for field in schema.TABLES[table]:
        values: list[Any]
        if pa.types.is_string(field.type):
            same = {"video_id": video, "uri": video}.get(field.name)
            values = [same or f"{field.name} {i}" for i in range(count)]
        elif pa.types.is_binary(field.type):
            values = [bytes([i % 256, 0, 255]) for i in range(count)]
        elif pa.types.is_timestamp(field.type):
            values = [datetime(2026, 1, 2, 3, 4, 5, i, UTC) for i in range(count)]
        elif pa.types.is_floating(field.type):
            values = [i / 8 for i in range(count)]
        else:
            values = [i % 100 for i in range(count)]
        if field.nullable:
            values = [None if i % 3 == 2 else value for i, value in enumerate(values)]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema.TABLES[table])


def put_part(
    lake: Lake,
    table: str,
    unit: str,
    rows: pa.Table,
    *,
    recorded: bool = True,
    n: int | None = None,
    keys: dict[str, str] | None = None,
) -> str:
    """Puts a part as the commit protocol leaves it, with its ledger record unless it is still on its way."""
    claim(lake)
    partition = Partition(table, tuple(keys.items()) if keys else PARTITIONS[table])
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    key = lake.part_key(partition, unit, n)
    lake.store.create(key, buffer.getvalue())
    record = lake.ledger_key(partition.data, unit)
    if recorded and table != "labels" and lake.store.stat(record) is None:
        lake.store.create(record, b"{}")
    return key
