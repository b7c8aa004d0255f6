"""What a run did: counted while units are committed, and printed at the end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from common import log
from common.cli import JobOptions, emit_json
from common.commit.record import LedgerRecord
from common.commit.units import Unit

MAX_FAILURES_SHOWN = 100


@dataclass
class Counts:
    """Numbers of videos by outcome, of frames and of rows; `failures`: the first videos that are not ok."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    frames: int = 0
    rows: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, record: LedgerRecord, unit: Unit) -> Counts:
        """The counts of the videos of `unit`, which was committed with this record."""
        counts = cls()
        for outcome in record.of(unit):
            row = outcome.row
            setattr(counts, row["status"], getattr(counts, row["status"]) + 1)
            counts.rows += outcome.rows
            counts.frames += row["frames"]
            if row["status"] != "ok" and len(counts.failures) < MAX_FAILURES_SHOWN:
                counts.failures.append({key: row[key] or "" for key in ("uri", "status", "reason", "message")})
        return counts


@dataclass
class Summary(Counts):
    """What a run did. `planned`: videos that it had to do; `skipped`: listed videos that were done before.

    `failed_before`: how many of the skipped videos had failed, None if the archive is too large to count them in
    passing. `keys`: the names of the partition of its rows.
    """

    keys: dict[str, str] = field(default_factory=dict)
    planned: int = 0
    skipped: int = 0
    failed_before: int | None = 0
    wall_s: float = 0.0

    def add(self, unit: Counts) -> None:
        """Adds the counts of a committed unit."""
        for name in ("ok", "partial", "failed", "frames", "rows"):
            setattr(self, name, getattr(self, name) + getattr(unit, name))
        self.failures += unit.failures[: MAX_FAILURES_SHOWN - len(self.failures)]

    @property
    def frames_per_s(self) -> float:
        return round(self.frames / self.wall_s, 2) if self.wall_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """All numbers, without the failures: the table `videos` has them."""
        counts = ("planned", "ok", "partial", "failed", "skipped", "failed_before", "frames", "rows")
        return self.keys | {name: getattr(self, name) for name in (*counts, "wall_s", "frames_per_s")}


def tell(summary: Summary, options: JobOptions) -> int:
    """Says what a run did, in words on stderr or as JSON on stdout; returns the exit status: 3 if videos failed."""
    for failure in summary.failures:
        print(log.redact("{status}: {uri}: {reason}: {message}".format(**failure)), file=sys.stderr)
    if more := summary.partial + summary.failed - len(summary.failures):
        print(f"... and {more} more: see the table videos", file=sys.stderr)
    print(_in_words(summary, options), file=sys.stderr)
    print(", ".join(f"{key} {value}" for key, value in summary.keys.items()), file=sys.stderr)
    if options.json:
        emit_json(summary.as_json())
    return 3 if summary.failed else 0


def _in_words(summary: Summary, options: JobOptions) -> str:
    before = f"; {summary.failed_before} failed before (see mien status)" if summary.failed_before else ""
    if options.dry_run:
        return f"videos: {summary.planned} to do, {summary.skipped} done{before}"
    if not summary.planned:
        return f"nothing to do: all {summary.skipped} videos were done before{before}"
    return (
        f"{summary.ok} videos ok, {summary.partial} partial, {summary.failed} failed, "
        f"{summary.skipped} done before{before}; "
        f"{summary.frames} frames, {summary.rows} rows in {summary.wall_s:.1f} s ({summary.frames_per_s:.1f} frames/s)"
    )
