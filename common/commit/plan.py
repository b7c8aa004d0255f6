"""The plan: listed videos become units of work, in a log that only grows.

Entry n of the log is the object `<n>.parquet`, written create-only. If two runs write the same number, one of them
fails, reads the other's entry, and plans only what is left: so no video enters two units. A video is planned again when
its object changed or its failure is to be retried: that adds a row with `revision` = n. The latest row of a video
counts. All rows stay in Arrow and NumPy, because a million Python objects would take too much memory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.commit.units import DENIED, LISTING, MISSING, NOT_A_FILE, NOT_UTF8, PLAN, Units, Video, unit_id
from common.errors import AlreadyExists
from common.faults import fault
from common.lake.layout import Lake, Partition

ENTRY_VIDEOS = 100_000
UNIT_VIDEOS = 256
# Bytes of video in a unit. One put takes at most 5 GiB, so a part of `faces` must stay below that: a crop has about
# 9 kB, while a frame of video has 1 to 3 kB. Rows of scores are small.
UNIT_BYTES = {"faces": 128 << 20, "scores": 1 << 30}
_ENTRY_NAME = re.compile(r"(\d{8})\.parquet")


class PlanLog:
    """The plan of one data partition. `load` before use; not safe to share between threads."""

    def __init__(self, lake: Lake, partition: Partition) -> None:
        self.lake = lake
        self.partition = partition
        self.last = 0  # number of the latest entry that was read
        self._rows = PLAN.empty_table()
        self._entry = np.empty(0, np.int64)  # [R] the number of the entry that holds each row
        self._sort()

    def __len__(self) -> int:
        """How many videos are planned."""
        return len(self._ids)

    def load(self) -> None:
        """Reads the entries that were added since the last call."""
        store, prefix = self.lake.store, self.lake.plan_prefix(self.partition)
        names = (_ENTRY_NAME.fullmatch(entry.key, len(prefix)) for entry in store.list(prefix))
        numbers = sorted(n for n in (int(name[1]) for name in names if name) if n > self.last)

        def read(n: int) -> pa.Table:
            return pq.read_table(io.BytesIO(store.read(self.lake.plan_key(self.partition, n))), schema=PLAN)

        if numbers:
            with ThreadPoolExecutor(8) as pool:
                self._add(numbers, list(pool.map(read, numbers)))

    def extend(
        self,
        listing: Iterable[pa.RecordBatch],
        *,
        limit: int | None = None,
        unit_bytes: int | None = None,
        unit_videos: int = UNIT_VIDEOS,
        put: bool = True,
    ) -> int:
        """Plans the listed videos that are new or whose version changed; returns how many, at most `limit`.

        `listing` (schema `LISTING`) must be lazy: this method first reads the log, and only then may the listing look
        at the videos. If another run plans a changed video meanwhile, its entry may be newer than the listing, so that
        video is left as the other run planned it. With `put=False` the plan is made in memory only.
        """
        unit_bytes = unit_bytes or UNIT_BYTES[self.partition.table]
        self.load()
        before, planned, waiting = self.last, 0, 0
        buffer: list[pa.Table] = []

        def flush() -> int:
            listed = pa.concat_tables(buffer) if buffer else LISTING.empty_table()
            buffer.clear()

            def rows(number: int) -> pa.Table:
                wanted = _first_of_each(listed.filter(self._wanted(listed, before)))
                room = len(wanted) if limit is None else limit - planned
                return self._group(wanted.slice(0, room), number, unit_bytes, unit_videos)

            return self._append(rows, put)

        for batch in listing:
            table = pa.Table.from_batches([batch]).cast(LISTING)
            table = table.filter(self._wanted(table, before))
            buffer.append(table)
            waiting += len(table)
            if waiting >= (ENTRY_VIDEOS if limit is None else min(ENTRY_VIDEOS, limit - planned)):
                planned += flush()
                waiting = 0
            if limit is not None and planned >= limit:
                return planned
        return planned + flush()

    def knows(self, video_ids: pa.ChunkedArray) -> pa.Array:
        """Whether each of these videos is planned."""
        return pa.array(self._find(pa.table({"video_id": video_ids}))[1])

    def revise(self, videos: Sequence[Video], *, put: bool = True) -> int:
        """Plans these videos once more with the same version; returns how many.

        Leaves out a video whose planned revision is no longer the given one. With `put=False` the plan is made in
        memory only.
        """
        columns = {name: [getattr(video, name) for video in videos] for name in LISTING.names}
        listed = pa.table(columns, LISTING)
        revisions = np.array([video.revision for video in videos], np.int64)

        def rows(number: int) -> pa.Table:
            at, known = self._find(listed)
            same = known & (self._rows["revision"].to_numpy()[at] == revisions)
            return self._group(listed.filter(same), number, 1, 1)

        return self._append(rows, put)

    def units(
        self,
        done: Container[str] = (),
        recorded: Callable[[list[str]], Mapping[str, Mapping[str, int]]] = lambda units: {},
    ) -> Units:
        """The units that are not `done`, and of the done units the videos that were planned again since.

        `recorded(unit ids)` returns for each unit the committed revision of each video: unit -> video_id -> revision.
        """
        encoded = self._rows["unit"].combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        unit = encoded.indices.to_numpy()[self._latest]
        revision = self._rows["revision"].to_numpy()[self._latest]
        finished = np.fromiter((name in done for name in names), bool, len(names))[unit]
        again = np.flatnonzero(finished & (revision > 0))
        known = recorded([names[code] for code in np.unique(unit[again])]) if len(again) else {}
        wanted = ~finished
        for at in again:
            wanted[at] = revision[at] > known[names[unit[at]]].get(self._ids[at].decode(), -1)
        unit, rows = unit[wanted], self._latest[wanted]
        order = np.argsort(unit, kind="stable")  # stable: within a unit the rows stay sorted by video_id
        starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
        return Units(self._rows.take(pa.array(rows[order])).combine_chunks(), np.append(starts, len(order)))

    def _append(self, rows: Callable[[int], pa.Table], put: bool) -> int:
        """Adds `rows(number)` as the next entry. If another run takes that number first, reads its entry and repeats.

        Returns how many rows were added. With `put=False` the entry is added in memory only.
        """
        while True:
            number = self.last + 1
            entry = rows(number)
            if not len(entry):
                return 0
            if put:
                key = self.lake.plan_key(self.partition, number)
                fault("plan.before_put", key)
                try:
                    self.lake.store.create(key, _parquet(entry))
                except AlreadyExists:
                    self.load()
                    continue
                fault("plan.after_put", key)
            self._add([number], [entry])
            return len(entry)

    def _add(self, numbers: list[int], entries: list[pa.Table]) -> None:
        self._rows = pa.concat_tables([self._rows, *entries])
        self._entry = np.concatenate([self._entry, np.repeat(numbers, [len(entry) for entry in entries])])
        self.last = numbers[-1]
        self._sort()

    def _sort(self) -> None:
        """Sets `_ids`, S32 [V]: the planned videos, sorted; and `_latest`, int64 [V]: the latest row of each."""
        ids = _ids(self._rows)
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        last = np.ones(len(ids), bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        self._ids, self._latest = ordered[last], order[last]

    def _find(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """For each video of `table`: int64 [N], its latest row (any number if not planned); bool [N], if planned."""
        if not len(self._ids):
            return np.zeros(len(table), np.int64), np.zeros(len(table), bool)
        ids = _ids(table)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return self._latest[at], self._ids[at] == ids

    def _wanted(self, table: pa.Table, before: int) -> pa.Array:
        """Whether to plan each listed video: it is new, or entry `before` or an earlier one has another version of it.

        A planned video that cannot be read any more is not planned again: its rows stay.
        """
        at, known = self._find(table)
        if not known.any():
            return pa.array(~known)
        planned = self._rows["version"].take(pa.array(at))
        changed = pc.not_equal(table["version"], planned).to_numpy() & (self._entry[at] <= before)
        changed &= ~pc.is_in(table["version"], pa.array([MISSING, DENIED, NOT_A_FILE, NOT_UTF8])).to_numpy()
        return pa.array(~known | changed)

    def _group(self, table: pa.Table, number: int, unit_bytes: int, unit_videos: int) -> pa.Table:
        """`table` as rows of entry `number`: new videos are put into new units, planned ones return to their unit."""
        at, known = self._find(table)
        fresh, again = table.filter(pa.array(~known)), table.filter(pa.array(known))
        return pa.concat_tables(
            [
                _rows(fresh, _grouped(fresh, unit_bytes, unit_videos), 0),
                _rows(again, self._rows["unit"].take(pa.array(at[known])), number),
            ]
        )


def _grouped(table: pa.Table, unit_bytes: int, unit_videos: int) -> pa.Array:
    """The unit id of each video. A unit takes at least one video, and at most `unit_bytes` and `unit_videos`."""
    ends = np.cumsum(table["size"].to_numpy())
    names: list[str] = []
    counts: list[int] = []
    start = 0
    while start < len(ends):
        full = (ends[start - 1] if start else 0) + unit_bytes
        end = min(max(int(np.searchsorted(ends, full, side="right")), start + 1), start + unit_videos, len(ends))
        members = table.slice(start, end - start)
        names.append(unit_id(zip(members["video_id"].to_pylist(), members["version"].to_pylist(), strict=True)))
        counts.append(end - start)
        start = end
    return pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(names)), counts)))


def _rows(table: pa.Table, unit: pa.Array, revision: int) -> pa.Table:
    columns = [unit, *(table[name] for name in LISTING.names), pa.array(np.full(len(table), revision))]
    return pa.table(columns, schema=PLAN)


def _first_of_each(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.sort(np.unique(_ids(table), return_index=True)[1])))


def _ids(table: pa.Table) -> np.ndarray:
    """The video ids as a NumPy array S32 [N], made without a Python object for each."""
    fixed = table["video_id"].combine_chunks().cast(pa.binary()).cast(pa.binary(32))
    return np.frombuffer(fixed.buffers()[1] or b"", "S32")[fixed.offset : fixed.offset + len(fixed)]


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
