"""Which parts of a table count: those of units that the ledger knows.

What a job is just putting, or left when it was killed, is not among them, so that no reader takes a unit for whole
that is not.
"""

from __future__ import annotations

from common.lake.layout import Lake, Partition
from common.lake.schema import SCHEMA_VERSION
from common.store.base import Entry

_SCHEMA = f"schema={SCHEMA_VERSION}"
# A job's outcomes are committed by the ledger of the rows that it makes.
_DATA_OF_JOB = {"job=score-": "scores/{}/model=", "job=ingest-": "faces/{}/ingest="}


def committed(lake: Lake, table: str, partition: Partition | None = None) -> list[Entry]:
    """The committed parts of `table`, or of one partition of it, by key; of labels, which no job commits, all."""
    place = str(partition or f"{table}/{_SCHEMA}")
    ledgers = {"labels": [], "videos": [f"scores/{_SCHEMA}", f"faces/{_SCHEMA}"]}.get(table, [place])
    # The ledger first: a part that it names then is there when the parts are listed.
    records = {
        entry.key.removeprefix("_ledger/").removesuffix(".json")
        for ledger in ledgers
        for entry in lake.store.list(f"_ledger/{ledger}/")
    }
    parts = [entry for entry in lake.store.list(f"{place}/") if entry.key.endswith(".parquet")]
    known = (part for part in parts if table == "labels" or _record(part.key) in records)
    return sorted(known, key=lambda entry: entry.key)


def _record(part: str) -> str:
    """`<table>/<partition>/part-<unit>-<n>.parquet` -> `<data table>/<partition>/<unit>`."""
    folder, _, name = part.rpartition("/")
    for job, data in _DATA_OF_JOB.items():
        folder = folder.replace(f"videos/{_SCHEMA}/{job}", data.format(_SCHEMA))
    return f"{folder}/{name.removeprefix('part-').removesuffix('.parquet').split('-')[0]}"
