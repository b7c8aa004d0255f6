"""The driver's side of the protocol that puts every row into the tables exactly once.

A unit whose videos are all staged is published (`common.publish`), recorded in the ledger, and its staging removed.
Done is what the ledger has; a video that was planned again after its unit was committed is published by rewriting the
unit's parts. Fault points (detail: a prefix or the unit): clean.before, clean.strikes, clean.after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from common.errors import AlreadyExists, CommitConflict, MienError, UsageError
from common.faults import fault
from common.publish import Overtaken, Publisher, Unstaged
from common.record import LedgerRecord, Outcome, record_of
from common.staging import Job, Staging, Strike, VideoWriter, staged_name
from common.units import PlanLog, Unit, Units, Video

__all__ = ["Committer", "Job", "LedgerRecord", "Outcome", "Reconciled", "Staging", "Strike", "Totals", "VideoWriter"]

REQUESTS = 16  # small objects that are read at once
_STAGED_NAME = re.compile(r"([0-9a-f]{32})-[0-9a-f]{12}-r(\d+)")


@dataclass(frozen=True)
class Totals:
    """What the plan and the ledger hold: `planned` = `ok` + `partial` + `failed` once all is done."""

    planned: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    frames: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Reconciled:
    """Units whose record was made from their part; units whose leftovers were removed; units whose part is gone."""

    adopted: tuple[str, ...]
    cleaned: tuple[str, ...]
    missing: tuple[str, ...]


class Committer:
    """Commits the units of one job. `commit` may run in several threads at once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.plan = PlanLog(job.lake, job.data)
        self._lake = job.lake
        self._store = job.lake.store
        self._staging = Staging(job)
        self._publisher = Publisher(job)

    def record_config(self) -> None:
        """Puts the partition's configuration beside it. Raises `UsageError` if rows of another one are in there."""
        key = self._lake.config_key(self.job.data)
        config = json.dumps(self.job.config, sort_keys=True, indent=1)
        try:
            self._store.create(key, config.encode())
        except AlreadyExists:
            if json.loads(self._store.read(key)) != json.loads(config):
                raise UsageError(
                    f"{self.job.data} holds rows of another configuration, see {key}: choose another lake or archive"
                ) from None

    def record_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Keeps the account of a run."""
        self._store.create(self._lake.run_key(run_id), json.dumps(summary, default=str).encode())

    def pending(self) -> Units:
        """What is planned and not done: units, the oldest first; of a done unit, the videos planned again since."""
        self.plan.load()
        return self._pending(self.plan)

    def preview(self, listing: Iterable[pa.RecordBatch], *, limit: int | None = None) -> Units:
        """What would be pending if the listing were planned; writes nothing."""
        plan = PlanLog(self._lake, self.job.data)
        plan.extend(listing, limit=limit, put=False)
        return self._pending(plan)

    def staged(self, unit: Unit) -> dict[str, Outcome]:
        """video_id -> outcome of the unit's videos that are finished and not committed."""
        prefix = self._lake.staging_prefix(self.job.data, unit.id)
        present = {entry.key for entry in self._store.list(prefix) if entry.key.endswith("/outcome.json")}
        videos = [video for video in unit.videos if f"{prefix}{staged_name(video)}/outcome.json" in present]
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = pool.map(self._staging.outcome, videos)
            return {video.video_id: outcome for video, outcome in zip(videos, found, strict=True) if outcome}

    def commit(self, unit: Unit) -> LedgerRecord:
        """Publishes the staged videos of `unit` (all of them must be staged or published) and returns its record.

        Raises `CommitConflict` for an object that is not ours, `MienError` if rows are missing or not fit to publish.
        """
        while True:
            try:
                record = self._settled(unit)
                break
            except Overtaken:
                continue
            except Unstaged as problem:
                # A twin removes what it has committed; then its record is there.
                done = self._publisher.recorded(unit.id)
                if done is None or not done.covers(unit):
                    raise MienError(f"unit {unit.id} cannot be committed, {problem}: run the job again") from None
        self._clean(record)
        return record

    def retry_failed(self, reason: str | None = None) -> int:
        """Plans the failed videos (of one reason, or all) once more; returns how many."""
        self.plan.load()
        videos = [
            Video(outcome.row["uri"], outcome.row["version"], outcome.row["size"], record.unit, outcome.revision)
            for record in self.records()
            for outcome in record.videos
            if outcome.row["status"] == "failed"
            and (outcome.row["reason"] == reason if reason else outcome.row["reason"] != "erased")
        ]
        return self.plan.revise(videos)

    def totals(self) -> Totals:
        """Counts over the whole plan and ledger."""
        self.plan.load()
        counts = dict.fromkeys(("ok", "partial", "failed", "frames", "rows"), 0)
        for record in self.records():
            for outcome in record.videos:
                counts[outcome.row["status"]] += 1
                counts["frames"] += outcome.row["frames"]
                counts["rows"] += outcome.rows
        return Totals(planned=len(self.plan), **counts)

    def records(self) -> Iterator[LedgerRecord]:
        """The ledger, a few records at a time."""
        yield from self._read_records(sorted(self._done()))

    def reconcile(self) -> Reconciled:
        """Makes ledger records of parts that lack one, and removes what commits that were cut off left in staging."""
        done = self._done()
        parts = {_unit_of(entry.key) for entry in self._store.list(f"{self.job.data}/")}
        adopted = tuple(sorted(parts - done))
        for unit in adopted:
            self._adopt(unit)
        left = {
            entry.key[len(prefix) :].partition("/")[0]
            for prefix in (self._lake.staging_prefix(self.job.data), self._lake.strikes_prefix(self.job.data))
            for entry in self._store.list(prefix)
        }
        done |= set(adopted)
        cleaned = [record.unit for record in self._read_records(sorted(left & done)) if self._clean(record)]
        self._store.sweep()
        return Reconciled(adopted, tuple(cleaned), tuple(sorted(done - parts - set(adopted))))

    def _settled(self, unit: Unit) -> LedgerRecord:
        """The unit's record, after every object of the unit says what it says."""
        recorded = self._publisher.recorded(unit.id)
        if recorded is not None and recorded.covers(unit):
            return recorded

        def goal(current: LedgerRecord | None) -> LedgerRecord:
            if current is None:
                if recorded is not None:
                    key = self._publisher.part_key(unit.id, 0)
                    raise CommitConflict(f"the ledger records {key}, which is gone: restore it")
                return record_of(unit.id, str(self.job.data), self._outcomes(unit.videos, unit))
            known = current.revisions
            newer = [video for video in unit.videos if video.revision > known.get(video.video_id, -1)]
            return current.revised(self._outcomes(newer, unit)) if newer else current

        record = self._publisher.lead(unit.id, goal)
        self._publisher.follow(record)
        return record

    def _adopt(self, unit: str) -> None:
        """Finishes the commit of a unit from what its first part says."""
        while True:
            key = self._publisher.part_key(unit, 0)
            held = self._publisher.footer(key)
            if held is None:
                raise CommitConflict(f"{key} is gone while other parts of its unit are there: restore it")
            try:
                return self._publisher.follow(held[0])
            except Overtaken:
                continue
            except Unstaged as problem:
                raise MienError(f"unit {unit} cannot be finished, {problem}: remove its parts, run the job") from None

    def _outcomes(self, videos: Iterable[Video], unit: Unit) -> list[Outcome]:
        staged = self.staged(unit)
        if missing := [video.uri for video in videos if video.video_id not in staged]:
            raise Unstaged(f"{len(missing)} of its videos are not staged, {missing[0]} first")
        return [staged[video.video_id] for video in videos]

    def _clean(self, record: LedgerRecord) -> bool:
        """Removes what is staged of the recorded videos, but nothing of one that was planned again since."""
        known = record.revisions
        prefixes = (
            self._lake.staging_prefix(self.job.data, record.unit),
            self._lake.strikes_prefix(self.job.data, record.unit),
        )
        removed = False
        for prefix, point in zip(prefixes, ("clean.before", "clean.strikes"), strict=True):
            fault(point, prefix)
            stale = []
            for entry in self._store.list(prefix):
                name = _STAGED_NAME.match(entry.key, len(prefix))
                if name and int(name[2]) <= known.get(name[1], -1):
                    stale.append(entry.key)
            self._store.delete(stale)
            removed = removed or bool(stale)
        fault("clean.after", record.unit)
        return removed

    def _pending(self, plan: PlanLog) -> Units:
        def recorded(units: list[str]) -> dict[str, dict[str, int]]:
            return {record.unit: record.revisions for record in self._read_records(units)}

        return plan.units(self._done(), recorded)

    def _done(self) -> set[str]:
        prefix = self._lake.ledger_prefix(self.job.data)
        return {entry.key[len(prefix) :].removesuffix(".json") for entry in self._store.list(prefix)}

    def _read_records(self, units: list[str]) -> Iterator[LedgerRecord]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            for start in range(0, len(units), REQUESTS):
                for found in pool.map(self._publisher.recorded, units[start : start + REQUESTS]):
                    if found is not None:
                        yield found


def _unit_of(key: str) -> str:
    """The unit of `.../part-<unit>[-<n>].parquet`."""
    return key.rpartition("/part-")[2].removesuffix(".parquet").partition("-")[0]
