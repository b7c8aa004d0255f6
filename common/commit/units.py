"""Videos as they are listed and planned, and the units in which they are committed together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.store.uris import canonical_uri

LISTING = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
PLAN = pa.schema(
    [pa.field("unit", pa.string(), nullable=False), *LISTING, pa.field("revision", pa.int64(), nullable=False)]
)
# Stand for the version of a listed video that cannot be read; `ingest.fetch` turns them into reasons.
MISSING, DENIED, NOT_A_FILE, NOT_UTF8 = "missing", "access-denied", "not-a-file", "not-utf8"


def video_id(uri: str) -> str:
    """First 32 hex digits of the SHA-256 of the canonical URI."""
    return hashlib.sha256(canonical_uri(uri).encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class Video:
    """A video to process: URI, version and size in bytes of its object, and where it stands in the plan.

    `revision` is 0, or the number of the plan entry that planned the video again.
    """

    uri: str
    version: str
    size: int
    unit: str = ""
    revision: int = 0

    @cached_property
    def video_id(self) -> str:
        return video_id(self.uri)

    @property
    def name(self) -> str:
        """The file's name with its extension; two folders of an archive may hold videos of one name."""
        return self.uri.rpartition("/")[2]


@dataclass(frozen=True)
class Unit:
    """Videos that are committed together, sorted by `video_id`.

    If the unit is committed already, it holds only the videos that were planned again since.
    """

    id: str
    videos: tuple[Video, ...]


class Units(Sequence[Unit]):
    """Units in the order in which they were planned; each `Unit` is built when it is accessed."""

    def __init__(self, rows: pa.Table, starts: np.ndarray) -> None:
        """`rows` (schema `PLAN`): one unit after the other; `starts` int64 [U + 1]: first row of each, then the end."""
        self._rows, self._starts = rows, starts

    @property
    def videos(self) -> int:
        """How many videos the units have together."""
        return len(self._rows)

    @property
    def video_ids(self) -> pa.ChunkedArray:
        """The ids of all their videos."""
        return self._rows["video_id"]

    @property
    def bytes(self) -> int:
        """How many bytes their videos have together."""
        return pc.sum(self._rows["size"]).as_py() or 0

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> Unit: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Unit]: ...
    def __getitem__(self, at: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        rows = self._rows.slice(self._starts[at], self._starts[at + 1] - self._starts[at]).to_pylist()
        videos = tuple(Video(row["uri"], row["version"], row["size"], row["unit"], row["revision"]) for row in rows)
        return Unit(rows[0]["unit"], videos)


def unit_id(members: Iterable[tuple[str, str]]) -> str:
    """`u` and 31 hex digits of the SHA-256 of the sorted (video_id, version). Values in paths begin with a letter."""
    content = "\n".join(f"{video} {version}" for video, version in sorted(members))
    return "u" + hashlib.sha256(content.encode()).hexdigest()[:31]
