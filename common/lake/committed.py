"""Which parts of a table readers use: those of units that have a ledger record.

A part that a running job has just written, or that a killed job left, has no ledger record yet and is ignored. So no
reader sees half of a unit.
"""

from __future__ import annotations

from common.lake.layout import Lake, Partition
from common.lake.schema import SCHEMA_VERSION
from common.store.base import Entry

_SCHEMA = f"schema={SCHEMA_VERSION}"


def committed(lake: Lake, table: str, partition: Partition | None = None) -> list[Entry]:
    """The committed parts of `table`, or of one partition of it, sorted by key. Of `labels`: all, it has no ledger."""
    place = str(partition or f"{table}/{_SCHEMA}")
    # `videos` has no ledger of its own: its parts are committed by the ledgers of `scores` and `faces`.
    ledgers = {"labels": [], "videos": [f"scores/{_SCHEMA}", f"faces/{_SCHEMA}"]}.get(table, [place])
    # The ledger is listed before the parts, so that every part that it names is in the later list.
    records = {entry.key for ledger in ledgers for entry in lake.store.list(f"_ledger/{ledger}/")}
    parts = [entry for entry in lake.store.list(f"{place}/") if entry.key.endswith(".parquet")]
    known = (part for part in parts if table == "labels" or _record(lake, part.key) in records)
    return sorted(known, key=lambda entry: entry.key)


def _record(lake: Lake, part: str) -> str | None:
    """The key of the ledger record that commits a part."""
    folder, _, name = part.rpartition("/")
    partition = Partition.parse(folder)
    unit = name.removeprefix("part-").removesuffix(".parquet").split("-")[0]
    return lake.ledger_key(partition.data, unit) if partition else None
