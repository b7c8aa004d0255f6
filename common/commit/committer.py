"""The protocol that puts every row into the tables exactly once; it uses `plan`, `staging` and `publish`.

When all videos of a unit are staged, the unit is published, recorded in the ledger, and its staged files are removed. A
unit is done when the ledger has its record. A video that is planned again after that is published by rewriting the
unit's parts. Another process may commit the same unit at the same time (another run, or an attempt that was thought
dead): every step gives the same result whichever process does it.
Fault points (detail: a prefix or the unit): clean.before, clean.strikes, clean.after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from common.commit.plan import PlanLog
from common.commit.publish import Overtaken, Publisher, Unstaged
from common.commit.record import LedgerRecord, Outcome, record_of
from common.commit.staging import Destination, Staging, staged_name
from common.commit.units import Unit, Units, Video
from common.errors import AlreadyExists, CommitConflict, MienError, StoreError, UsageError
from common.faults import fault

REQUESTS = 16  # how many small objects are read at the same time
RESTORE = "restore it from a copy, or remove every object named after the unit and run the job again"
T = TypeVar("T")
_STAGED_NAME = re.compile(r"([0-9a-f]{32})-[0-9a-f]{12}-r(\d+)")
_PART_NAME = re.compile(r"part-([^-./]+)(?:-\d{5})?\.parquet")


@dataclass(frozen=True)
class Reconciled:
    """What `reconcile` did. `mended` and `cleaned` are ids of units; `problems` are sentences about what it left."""

    units: int  # how many there are
    mended: tuple[str, ...]
    cleaned: tuple[str, ...]
    problems: tuple[str, ...]


class Committer:
    """Plans and commits the units of one destination. `commit` may run in several threads and processes at once."""

    def __init__(self, destination: Destination, beat: Callable[[], None] = lambda: None) -> None:
        """`beat` is called now and then during a commit, which may take minutes."""
        self.destination = destination
        self.plan = PlanLog(destination.lake, destination.data)
        self._lake = destination.lake
        self._store = destination.lake.store
        self._staging = Staging(destination)
        self._publisher = Publisher(destination, beat)

    def record_config(self) -> None:
        """Stores the partition's configuration. Raises `UsageError` if the partition already has a different one."""
        key = self._lake.config_key(self.destination.data)
        config = json.dumps(self.destination.config, sort_keys=True, indent=1)
        try:
            self._store.create(key, config.encode())
        except AlreadyExists:
            if json.loads(self._store.read(key)) != json.loads(config):
                raise UsageError(
                    f"{self.destination.data} holds rows of another configuration, see {key}: "
                    "choose another lake or archive"
                ) from None

    def record_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Stores the summary of a run."""
        self._store.create(self._lake.run_key(run_id), json.dumps(summary, default=str).encode())

    def pending(self) -> Units:
        """The units that are not done, oldest first. Of a done unit: the videos that were planned again since."""
        self.plan.load()
        return self._pending(self.plan)

    def recorded(self, unit_id: str) -> LedgerRecord | None:
        """The unit's record, if it is committed."""
        return self._publisher.recorded(unit_id)

    def begun(self) -> set[str]:
        """The ids of the units that have something staged."""
        prefix = self._lake.staging_prefix(self.destination.data)
        return {entry.key[len(prefix) :].partition("/")[0] for entry in self._store.list(prefix)}

    def staged(self, unit: Unit) -> set[str]:
        """The ids of the unit's videos that are finished but not committed."""
        prefix = self._lake.staging_prefix(self.destination.data, unit.id)
        present = {entry.key for entry in self._store.list(prefix) if entry.key.endswith("/outcome.json")}
        return {video.video_id for video in unit.videos if f"{prefix}{staged_name(video)}/outcome.json" in present}

    def commit(self, unit: Unit) -> LedgerRecord:
        """Publishes the staged videos of `unit` (all of them must be staged or published) and returns its record.

        Raises `CommitConflict` for an object that is not ours, `MienError` if rows are missing or not fit to publish.
        """
        record = self._retrying(unit.id, lambda: self._settled(unit), "run the job again")
        self._clean(record)
        return record

    def retry_failed(self, reason: str | None = None, *, put: bool = True) -> int:
        """Plans the failed videos (of one reason, or all) once more; returns how many. `put` as in `PlanLog.revise`."""
        self.plan.load()
        videos = [
            Video(outcome.row["uri"], outcome.row["version"], outcome.row["size"], record.unit, outcome.revision)
            for record, outcome in self._failed()
            if (outcome.row["reason"] == reason if reason else outcome.row["reason"] != "erased")
        ]
        return self.plan.revise(videos, put=put)

    @property
    def committed(self) -> int:
        """How many units are committed."""
        return len(self._done())

    def failed(self) -> list[str]:
        """The ids of the videos whose committed outcome is a failure."""
        return [outcome.video_id for _, outcome in self._failed()]

    def _failed(self) -> Iterator[tuple[LedgerRecord, Outcome]]:
        for record in self.records():
            yield from ((record, outcome) for outcome in record.videos if outcome.row["status"] == "failed")

    def records(self) -> Iterator[LedgerRecord]:
        """The ledger, a few records at a time."""
        yield from self._read_records(sorted(self._done()))

    def reconcile(self) -> Reconciled:
        """Brings all objects of each unit into agreement with its part 0, and removes staged files of committed units.

        Safe while jobs run. Raises `StoreError`; any other error of a unit becomes one of the `problems`.
        """
        folder = f"{self.destination.data}/"
        named = (_PART_NAME.fullmatch(entry.key, len(folder)) for entry in self._store.list(folder))
        units = sorted(self._done().union(match[1] for match in named if match))
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = dict(zip(units, pool.map(self._mend, units), strict=True))
        left = {
            entry.key[len(prefix) :].partition("/")[0]
            for prefix in (
                self._lake.staging_prefix(self.destination.data),
                self._lake.strikes_prefix(self.destination.data),
            )
            for entry in self._store.list(prefix)
        }
        return Reconciled(
            units=len(units),
            mended=tuple(unit for unit in units if found[unit] is True),
            cleaned=tuple(record.unit for record in self._read_records(sorted(left)) if self._clean(record)),
            problems=tuple(problem for problem in found.values() if isinstance(problem, str)),
        )

    def _settled(self, unit: Unit) -> LedgerRecord:
        """Publishes what is not published yet; returns the record that all objects of the unit now hold."""
        recorded = self._publisher.recorded(unit.id)
        if recorded is not None and recorded.covers(unit):
            return recorded

        def goal(current: LedgerRecord | None) -> LedgerRecord:
            if current is None:
                if recorded is not None:
                    key = self._publisher.part_key(unit.id, 0)
                    raise CommitConflict(f"the ledger records {key}, which is gone: {RESTORE}")
                return record_of(unit.id, str(self.destination.data), self._outcomes(list(unit.videos), unit))
            known = current.revisions
            newer = [video for video in unit.videos if video.revision > known.get(video.video_id, -1)]
            return current.revised(self._outcomes(newer, unit)) if newer else current

        record = self._publisher.lead(unit.id, goal)
        self._publisher.follow(record)
        return record

    def _mend(self, unit: str) -> bool | str:
        """Whether an object of the unit had to be written; a sentence if the unit cannot be repaired."""

        def follow() -> bool:
            key = self._publisher.part_key(unit, 0)
            held = self._publisher.footer(key)
            if held is None:
                raise CommitConflict(f"{key} is gone while other objects of its unit are there: {RESTORE}")
            return self._publisher.follow(held[0])

        try:
            return self._retrying(unit, follow, RESTORE)
        except StoreError:
            raise
        except MienError as problem:
            return str(problem)

    def _retrying(self, unit: str, attempt: Callable[[], T], advice: str) -> T:
        """Repeats `attempt` while it fails because another process commits the same unit.

        If the unit's objects are the same after two failures, no other process is the cause: raises `MienError`.
        """
        failed_at = None
        while True:
            try:
                return attempt()
            except (Overtaken, Unstaged) as problem:
                state = self._publisher.state(unit)
                if state == failed_at:
                    raise MienError(f"unit {unit} cannot be committed, {problem}: {advice}") from None
                failed_at = state

    def _outcomes(self, videos: list[Video], unit: Unit) -> list[Outcome]:
        """The staged outcomes of these videos of `unit`. Raises `Unstaged` if one is missing."""
        staged = self.staged(unit)
        there = [video for video in videos if video.video_id in staged]
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = dict(zip(there, pool.map(self._staging.outcome, there), strict=True))
        if missing := [video.uri for video in videos if found.get(video) is None]:
            raise Unstaged(f"{len(missing)} of its videos are not staged, {missing[0]} first")
        return [outcome for outcome in found.values() if outcome]

    def _clean(self, record: LedgerRecord) -> bool:
        """Removes staged files and strikes of the recorded videos, but not of a later revision. Returns if any."""
        known = record.revisions
        prefixes = (
            self._lake.staging_prefix(self.destination.data, record.unit),
            self._lake.strikes_prefix(self.destination.data, record.unit),
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
        prefix = self._lake.ledger_prefix(self.destination.data)
        names = (entry.key[len(prefix) :] for entry in self._store.list(prefix))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def _read_records(self, units: list[str]) -> Iterator[LedgerRecord]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            for start in range(0, len(units), REQUESTS):
                for found in pool.map(self._publisher.recorded, units[start : start + REQUESTS]):
                    if found is not None:
                        yield found
