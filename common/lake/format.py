"""The format of a lake: a number, which its first job writes to `_lake.json`. Every command refuses any other format.

The number is raised when mien can no longer work with lakes that earlier versions wrote: their tables lack columns of
`schema`, or the files of the commit protocol have changed. A lake that holds tables but no `_lake.json` has format 1.
"""

from __future__ import annotations

import json

from common.errors import AccessDenied, AlreadyExists, NotFound, UsageError
from common.lake.layout import Lake
from common.lake.schema import TABLES

FORMAT = 3
KEY = "_lake.json"


def check(lake: Lake) -> None:
    """Raises `UsageError` for a lake of another format. One GET, and a few LISTs where the file is missing."""
    found = _stated(lake)
    if found is None and _holds_tables(lake):
        found = _stated(lake) or 1  # read again: another job may just have created the lake
    if found in (None, FORMAT):
        return
    if found < FORMAT:
        raise UsageError(
            f"the lake {lake.url} was made by an earlier version of mien and lacks columns of today's tables: "
            "name a new lake, and ingest, label and score into it again"
        )
    raise UsageError(f"the lake {lake.url} was made by a later version of mien: use that version")


def check_existing(lake: Lake) -> None:
    """`check`, for a command that asks about a lake; also raises `UsageError` where there is none."""
    if next(lake.store.list(), None) is None:
        raise UsageError(f"there is no lake at {lake.url}: give the folder or prefix that --lake named")
    check(lake)


def check_writable(lake: Lake) -> None:
    """`check`, for a command that is about to write; also raises `UsageError` if it may not write there."""
    check(lake)
    try:
        lake.store.check_writable()
    except AccessDenied as error:
        raise UsageError(str(error)) from None


def claim(lake: Lake) -> None:
    """`check`, for a command that writes: a new lake gets the file that states its format."""
    if _stated(lake) == FORMAT:
        return
    check(lake)
    try:
        lake.store.create(KEY, json.dumps({"format": FORMAT}).encode())
    except AlreadyExists:
        check(lake)


def _stated(lake: Lake) -> int | None:
    """The format in `_lake.json`, None without that file."""
    try:
        stated: int = json.loads(lake.store.read(KEY))["format"]
    except NotFound:
        return None
    return stated


def _holds_tables(lake: Lake) -> bool:
    return any(next(lake.store.list(f"{folder}/"), None) is not None for folder in ("_plans", *TABLES))
