"""Writes the objects of a unit so that all hold the same record, each by one create-only or conditional put.

Part 0 decides: the record in its footer says which attempt at each video counts. Then the other parts, the unit's part
of `videos`, and last its ledger record are written with the same record. An object that already holds that record is
kept: another process has written it. If an object has a later revision of a video, a newer commit is under way, and
this one starts again from part 0. So a commit may be killed anywhere, repeated, run in several processes at once, or
continue after being stopped for days.
Fault points (detail: the key): local.written; part, videos and ledger, each with .before_create, .after_create,
.before_replace and .after_replace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from common import scratch
from common.commit.record import LedgerRecord, Outcome
from common.commit.staging import Destination, Staging
from common.commit.units import Video
from common.disk import speaking
from common.errors import AlreadyExists, CommitConflict, MienError, NotFound, PreconditionFailed
from common.faults import fault
from common.lake.parts import PartWriter, by_video, check_part, check_values, read_footer, read_tables
from common.lake.schema import VIDEOS
from common.store.base import Entry

Held = tuple[LedgerRecord, str]  # the record in an object, and the version of that object


class Overtaken(Exception):
    """An object already holds a later record than the one to be written."""


class Unstaged(Exception):
    """Rows that the commit needs are not staged, or no longer staged."""


class Publisher:
    """Creates and replaces the objects of the units of one destination. Thread-safe."""

    def __init__(self, destination: Destination, beat: Callable[[], None] = lambda: None) -> None:
        """`beat` is called with every object that is put and every piece that is copied."""
        self._beat = beat
        self.destination = destination
        self._lake = destination.lake
        self._store = destination.lake.store
        self._staging = Staging(destination)

    def lead(self, unit: str, goal: Callable[[LedgerRecord | None], LedgerRecord]) -> LedgerRecord:
        """Makes part 0 hold `goal(its record now, or None)`; returns that. Raises `Unstaged`, `CommitConflict`."""
        return self._bring("part", self.part_key(unit, 0), goal, self.footer, partial(self._build_part, 0))[0]

    def follow(self, record: LedgerRecord) -> bool:
        """Makes all objects but part 0 hold `record`, the ledger last. Returns whether any had to be written.

        Raises `Overtaken`, `Unstaged`, `CommitConflict`.
        """
        put = False
        for n in range(1, record.parts):
            key = self.part_key(record.unit, n)
            put |= self._bring("part", key, lambda _: record, self.footer, partial(self._build_part, n))[1]
        videos = self._lake.part_key(self.destination.videos, record.unit)
        put |= self._bring("videos", videos, lambda _: record, self.footer, self._build_videos)[1]
        ledger = self._lake.ledger_key(self.destination.data, record.unit)
        return self._bring("ledger", ledger, lambda _: record, self._read_record, self._build_record)[1] or put

    def state(self, unit: str) -> tuple[Entry | None, Entry | None]:
        """Part 0 and the ledger record as they are now: every commit of the unit changes at least one of them."""
        ledger = self._lake.ledger_key(self.destination.data, unit)
        return self._store.stat(self.part_key(unit, 0)), self._store.stat(ledger)

    def recorded(self, unit: str) -> LedgerRecord | None:
        """The unit's ledger record, None if there is none."""
        held = self._read_record(self._lake.ledger_key(self.destination.data, unit))
        return held[0] if held else None

    def part_key(self, unit: str, n: int) -> str:
        return self._lake.part_key(self.destination.data, unit, None if self.destination.frames_per_part is None else n)

    def _bring(
        self,
        kind: str,
        key: str,
        goal: Callable[[LedgerRecord | None], LedgerRecord],
        read: Callable[[str], Held | None],
        build: Callable[[str, LedgerRecord, Held | None, Path], Path | bytes],
    ) -> tuple[LedgerRecord, bool]:
        """Makes the object hold `goal(its record now, or None)`. Returns that record, and whether it was written.

        `read(key)` gives what the object holds; `build(key, record, held, folder)` makes its new content.
        """
        while True:
            current = read(key)
            record = goal(current[0] if current else None)
            if current is not None:
                if (current[0].unit, current[0].partition) != (record.unit, record.partition):
                    raise CommitConflict(f"{key} is of another unit or partition: move it out of the lake")
                if current[0].ahead_of(record):
                    raise Overtaken(f"{key} is of a later commit than part 0")
                if not record.ahead_of(current[0]):
                    if not record.same_rows(current[0]):
                        raise CommitConflict(f"{key} holds other attempts than part 0 of its unit: remove the unit")
                    return current[0], False
            self._beat()
            with scratch.folder() as folder:
                try:
                    content = build(key, record, current, Path(folder))
                    fault("local.written", key)
                    action = "replace" if current else "create"
                    fault(f"{kind}.before_{action}", key)
                    if current:
                        self._store.replace(key, content, current[1])
                    else:
                        self._store.create(key, content)
                except (AlreadyExists, PreconditionFailed):
                    continue
            fault(f"{kind}.after_{action}", key)
            return record, True

    def _build_part(self, n: int, key: str, record: LedgerRecord, current: Held | None, folder: Path) -> Path:
        """Part n of `record`: rows kept from the current part, merged with the staged pieces in order of video_id."""
        known = current[0].revisions if current else {}
        staged = [outcome for outcome in record.videos if outcome.revision > known.get(outcome.video_id, -1)]
        replaced = {outcome.video_id for outcome in staged}
        path = folder / "part.parquet"
        footer = self._describe(record) | {"mien.part": str(n)}
        if (step := self.destination.frames_per_part) is not None:
            footer["mien.frames"] = f"{n * step}-{(n + 1) * step}"
        with PartWriter(path, self.destination.schema, footer) as writer:
            waiting = [outcome for outcome in reversed(staged) if n in outcome.pieces]
            if current:
                old = folder / "current.parquet"
                self._store.download(key, old, current[1])
                for video_id, table in by_video(read_tables(old)):
                    while waiting and waiting[-1].video_id < video_id:
                        self._copy_piece(record.unit, waiting.pop(), n, folder, writer)
                    if video_id not in replaced:
                        writer.write(table)
            while waiting:
                self._copy_piece(record.unit, waiting.pop(), n, folder, writer)
        rows = {outcome.video_id: outcome.pieces.get(n, 0) for outcome in record.videos}
        # The frames of a video in several pieces were checked by the worker that staged it.
        frames = {o.video_id: o.row["frames"] for o in record.videos if o.pieces.keys() == {n}}
        with _fit(key):
            check_part(path, self.destination.schema, rows, frames)
        return path

    def _copy_piece(self, unit: str, outcome: Outcome, n: int, folder: Path, writer: PartWriter) -> None:
        row = outcome.row
        video = Video(row["uri"], row["version"], row["size"], unit, outcome.revision)
        piece = folder / "piece.parquet"
        self._beat()
        try:
            self._store.download(self._staging.piece_key(video, outcome.attempt, n), piece)
        except NotFound:
            raise Unstaged(f"staged rows of {row['uri']} are gone") from None
        for table in read_tables(piece):
            writer.write(table)
        piece.unlink()

    def _build_videos(self, key: str, record: LedgerRecord, current: object, folder: Path) -> Path:
        path = folder / "videos.parquet"
        with PartWriter(path, VIDEOS, self._describe(record)) as writer:
            writer.write(pa.Table.from_pylist([outcome.row for outcome in record.videos], schema=VIDEOS))
        with _fit(key):
            for table in read_tables(path):
                check_values(table, VIDEOS)
        return path

    def _build_record(self, key: str, record: LedgerRecord, current: object, folder: Path) -> bytes:
        return record.to_json()

    def _describe(self, record: LedgerRecord) -> dict[str, str]:
        """The footer of a part: the ledger can be rebuilt from it."""
        return {
            "mien.unit": record.unit,
            "mien.schema_version": str(record.schema_version),
            "mien.code_version": record.code_version,
            "mien.record": record.to_json().decode(),
        }

    def footer(self, key: str) -> Held | None:
        """The record in a part's footer and the part's version, None if there is no part. Raises `CommitConflict`."""
        while True:
            before = self._store.stat(key)
            if before is None:
                return None
            try:
                with speaking("read", key), self._store.open_input(key) as file:
                    stored = read_footer(file).get("mien.record")
                after = self._store.stat(key)
            except (PreconditionFailed, NotFound):
                continue
            except ValueError:
                stored, after = None, before
            if after == before:
                break
        if stored is None:
            raise CommitConflict(f"{key} was not written by this program: move it out of the lake")
        return LedgerRecord.from_json(stored, key), before.version

    def _read_record(self, key: str) -> Held | None:
        try:
            data, version = self._store.read_versioned(key)
        except NotFound:
            return None
        return LedgerRecord.from_json(data, key), version


@contextmanager
def _fit(key: str) -> Iterator[None]:
    """Turns the `ValueError` of a check into a `MienError`."""
    try:
        yield
    except ValueError as problem:
        raise MienError(f"{key} is not fit to be published, {problem}: nothing was written") from None
