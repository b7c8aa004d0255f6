"""What a lake holds and how far its jobs are: the answer of `mien status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from common.commit.plan import PlanLog
from common.lake.layout import Lake, Partition
from score.analysis.sql import connect

# Per data table: the folder that names its configuration, and how a job over it is called in `videos`.
_JOBS = {"faces": ("ingest", "ingest-"), "scores": ("model", "score-")}
_OUTCOMES = """
    SELECT job, archive, status, reason, count(*), sum(frames)::BIGINT, arg_max(run_id, finished_at), max(finished_at)
    FROM videos GROUP BY ALL"""


@dataclass
class Job:
    """One data partition: `todo` counts planned videos whose outcome is not committed yet."""

    table: str
    config: str
    archive: str
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
    jobs: list[Job]
    labels: dict[str, int]  # dataset -> rows

    def as_json(self) -> dict[str, Any]:
        return {"lake": self.lake, "jobs": [job.as_json() for job in self.jobs], "labels": self.labels}


def status(lake: Lake) -> Status:
    """Reads the plans, the ledger and the tables, each part once. Raises `UsageError` if there is no lake."""
    rows: dict[tuple[str, str], int] = {}
    with connect(lake) as tables:
        for table, (column, prefix) in _JOBS.items():
            counts = tables.query(f"SELECT {column}, archive, count(*) FROM {table} GROUP BY ALL")[1]
            rows |= {(prefix + config, archive): count for config, archive, count in counts}
        outcomes = list(tables.query(_OUTCOMES)[1])
        labels = dict(tables.query("SELECT dataset, count(*) FROM labels GROUP BY dataset ORDER BY dataset")[1])
    # After the tables: whatever they hold is planned by now, also if a job has begun meanwhile.
    jobs = {
        (_JOBS[table][1] + job.config, job.archive): job
        for table in _JOBS
        for job in (_planned(lake, table, partition) for partition in lake.partitions(table))
    }
    for key, count in rows.items():
        jobs[key].rows = count
    for name, archive, *outcome in outcomes:
        _count(jobs[name, archive], *outcome)
    return Status(lake.url, list(jobs.values()), labels)


def _planned(lake: Lake, table: str, partition: Partition) -> Job:
    keys = dict(partition.keys)
    plan = PlanLog(lake, partition)
    plan.load()
    return Job(
        table,
        keys[_JOBS[table][0]],
        keys["archive"],
        units_planned=len(plan.units()),
        units_done=sum(1 for _ in lake.store.list(lake.ledger_prefix(partition))),
        planned=len(plan),
    )


def _count(job: Job, outcome: str, reason: str | None, videos: int, frames: int, run: str, at: datetime) -> None:
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
        yield f"{job.table}  {'ingest' if job.table == 'faces' else 'model'} {job.config}  archive {job.archive}"
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
