"""The outcome of a video and the record of a unit, with the JSON that staging, footers of parts and the ledger hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

import common
from common.commit.units import Unit
from common.errors import CommitConflict
from common.lake.parts import check_values
from common.lake.schema import SCHEMA_VERSION, VIDEOS


@dataclass(frozen=True)
class Outcome:
    """A finished video: its `videos` row, and the attempt whose staged pieces are its rows.

    `pieces`: number of a piece -> how many rows it has; no entry for a piece without rows. `revision`: see `Video`.
    """

    row: dict[str, Any]
    revision: int
    attempt: str
    pieces: dict[int, int]

    @classmethod
    def of(cls, row: dict[str, Any], revision: int, attempt: str, pieces: dict[int, int]) -> Outcome:
        """Raises `ValueError` for a row that is not one of the table `videos`; columns left out are NULL."""
        if unknown := row.keys() - set(VIDEOS.names):
            raise ValueError(f"no columns of the table videos: {sorted(unknown)}")
        table = pa.Table.from_pylist([row], schema=VIDEOS)
        check_values(table, VIDEOS)
        return cls(table.to_pylist()[0], revision, attempt, dict(sorted(pieces.items())))

    @property
    def video_id(self) -> str:
        return self.row["video_id"]

    @property
    def rows(self) -> int:
        return sum(self.pieces.values())

    def to_dict(self) -> dict[str, Any]:
        row = self.row | {"finished_at": self.row["finished_at"].isoformat()}
        return {"revision": self.revision, "attempt": self.attempt, "pieces": self.pieces, "row": row}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Outcome:
        row = stored["row"] | {"finished_at": datetime.fromisoformat(stored["row"]["finished_at"])}
        pieces = {int(n): rows for n, rows in stored["pieces"].items()}
        return cls(row, stored["revision"], stored["attempt"], pieces)


@dataclass(frozen=True)
class LedgerRecord:
    """A committed unit: how many data parts it has, and its videos, sorted by `video_id`."""

    unit: str
    partition: str
    parts: int
    videos: tuple[Outcome, ...]
    code_version: str = common.__version__
    schema_version: int = SCHEMA_VERSION

    @property
    def rows(self) -> int:
        return sum(outcome.rows for outcome in self.videos)

    @property
    def revisions(self) -> dict[str, int]:
        return {outcome.video_id: outcome.revision for outcome in self.videos}

    def covers(self, unit: Unit) -> bool:
        """Whether the record has every video of `unit`, in the planned revision or a later one."""
        known = self.revisions
        return all(known.get(video.video_id, -1) >= video.revision for video in unit.videos)

    def of(self, unit: Unit) -> list[Outcome]:
        """The outcomes of the unit's videos."""
        wanted = {video.video_id for video in unit.videos}
        return [outcome for outcome in self.videos if outcome.video_id in wanted]

    def ahead_of(self, other: LedgerRecord) -> bool:
        """Whether this record has a video that `other` lacks, or a later revision of one."""
        known = other.revisions
        return any(outcome.revision > known.get(outcome.video_id, -1) for outcome in self.videos)

    def same_rows(self, other: LedgerRecord) -> bool:
        """Whether both are made of the same attempts."""
        return [(o.video_id, o.revision, o.attempt) for o in self.videos] == [
            (o.video_id, o.revision, o.attempt) for o in other.videos
        ]

    def revised(self, outcomes: Iterable[Outcome]) -> LedgerRecord:
        """The record with these outcomes in place of earlier ones. It never has fewer parts: no part is deleted."""
        videos = {outcome.video_id: outcome for outcome in (*self.videos, *outcomes)}
        return record_of(self.unit, self.partition, videos.values(), self.parts)

    def to_json(self) -> bytes:
        stored = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(stored | {"videos": [outcome.to_dict() for outcome in self.videos]}).encode()

    @classmethod
    def from_json(cls, data: bytes | str, key: str) -> LedgerRecord:
        """`key`: the object that holds it. Raises `CommitConflict` for what is no record."""
        try:
            stored = json.loads(data)
            return cls(**stored | {"videos": tuple(map(Outcome.from_dict, stored["videos"]))})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CommitConflict(
                f"{key} does not hold the record of a unit, somebody changed it: move it out of the lake, then run "
                "`mien reconcile`"
            ) from None


def record_of(unit: str, partition: str, outcomes: Iterable[Outcome], parts: int = 1) -> LedgerRecord:
    """The record of these videos: as many parts as their pieces need, at least `parts`."""
    videos = tuple(sorted(outcomes, key=lambda outcome: outcome.video_id))
    needed = 1 + max((n for outcome in videos for n in outcome.pieces), default=0)
    return LedgerRecord(unit, partition, max(parts, needed), videos)
