"""`mien status`: what a lake holds and how far its jobs are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from common.commit.plan import PlanLog
from common.lake.layout import PARTITION_KEYS, Lake, Partition
from score.analysis.sql import connect
from score.config import made_with, stored

_MADE_BY_JOBS = ("faces", "scores")
_OUTCOMES = """
    SELECT job, archive, status, reason, count(*), sum(frames)::BIGINT, arg_max(run_id, finished_at), max(finished_at)
    FROM videos GROUP BY ALL"""


@dataclass
class JobStatus:
    """One partition of faces or scores: `todo` counts planned videos whose outcome is not committed yet."""

    table: str
    config: str
    archive: str
    options: str  # how they differ from the defaults
    units_planned: int = 0
    units_done: int = 0
    planned: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # of partial and failed videos
    frames: int = 0
    rows: int = 0
    last_run: str | None = None
    finished_at: datetime | None = None

    @property
    def todo(self) -> int:
        return max(0, self.planned - self.ok - self.partial - self.failed)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"todo": self.todo}


@dataclass(frozen=True)
class Status:
    lake: str
    jobs: list[JobStatus]
    labels: dict[str, int]  # dataset -> rows

    def as_json(self) -> dict[str, Any]:
        return {"lake": self.lake, "jobs": [job.as_json() for job in self.jobs], "labels": self.labels}


def status(lake: Lake) -> Status:
    """Reads the plans, the ledger and the tables, each part once. Raises `UsageError` if there is no lake."""
    rows: dict[Partition, int] = {}
    with connect(lake) as tables:
        for table in _MADE_BY_JOBS:
            keys = PARTITION_KEYS[table]
            counts = tables.query(f"SELECT {', '.join(keys)}, count(*) FROM {table} GROUP BY ALL")[1]
            rows |= {Partition(table, tuple(zip(keys, values, strict=True))): count for *values, count in counts}
        outcomes = list(tables.query(_OUTCOMES)[1])
        labels = dict(tables.query("SELECT dataset, count(*) FROM labels GROUP BY dataset ORDER BY dataset")[1])
    # The plans are read after the tables: even if a job is running, every video in the tables is then in a plan.
    jobs = {partition: _planned(lake, partition) for table in _MADE_BY_JOBS for partition in lake.partitions(table)}
    for partition, count in rows.items():
        jobs[partition].rows = count
    for name, archive, *outcome in outcomes:
        _count(jobs[Partition("videos", (("job", name), ("archive", archive))).data], *outcome)
    return Status(lake.url, list(jobs.values()), labels)


def _planned(lake: Lake, partition: Partition) -> JobStatus:
    plan = PlanLog(lake, partition)
    plan.load()
    return JobStatus(
        partition.table,
        partition[PARTITION_KEYS[partition.table][0]],
        partition["archive"],
        made_with(stored(lake, partition)),
        units_planned=len(plan.units()),
        units_done=sum(1 for _ in lake.store.list(lake.ledger_prefix(partition))),
        planned=len(plan),
    )


def _count(job: JobStatus, outcome: str, reason: str | None, videos: int, frames: int, run: str, at: datetime) -> None:
    setattr(job, outcome, getattr(job, outcome) + videos)
    job.frames += frames
    if reason:
        job.reasons[reason] = job.reasons.get(reason, 0) + videos
    if job.finished_at is None or at > job.finished_at:
        job.last_run, job.finished_at = run, at


def as_text(status: Status) -> Iterator[str]:
    """The lines for people."""
    yield f"lake {status.lake}"
    if not status.jobs and not status.labels:
        yield "  nothing in it yet: mien ingest and mien score fill it"
    for job in status.jobs:
        yield f"{job.table}  {PARTITION_KEYS[job.table][0]} {job.config}  archive {job.archive}"
        yield f"  options  {job.options}"
        yield f"  units    {job.units_done} of {job.units_planned} done"
        counts = [f"{job.ok} ok", f"{job.partial} partial", f"{job.failed} failed", f"{job.todo} to do"]
        yield f"  videos   {job.planned} planned: {', '.join(counts)}"
        for reason, videos in sorted(job.reasons.items(), key=lambda item: (-item[1], item[0])):
            yield f"           {videos} {reason}"
        yield f"  frames   {job.frames:,}   rows {job.rows:,}"
        if job.finished_at:
            yield f"  last run {job.last_run}, until {job.finished_at:%Y-%m-%d %H:%M:%S} UTC"
    for dataset, rows in status.labels.items():
        yield f"labels  dataset {dataset}  rows {rows:,}"
