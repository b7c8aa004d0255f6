"""A job over the videos of an archive: plan, hand out, commit, account for every video.

`ingest` and `score` are each a `Processor`, which `worker` runs; Ray is behind `cluster`, storage behind
`common.commit.committer`.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from common import log, scratch
from common.cli import JobOptions, emit_json
from common.commit.committer import Committer, Destination, LedgerRecord
from common.commit.units import Unit, Units, Video
from common.errors import MienError
from common.lake.format import check, claim
from common.progress import Progress
from common.run import cluster
from common.run.worker import Done, MakeProcessor, WorkerFactory

PARCEL_BYTES = 3_000_000  # about 30 s of a worker's time at 640x360
PARCEL_VIDEOS = 64
COMMITTERS = 2
ROUND_VIDEOS = 20_000
MAX_FAILURES_SHOWN = 100


@dataclass
class Summary:
    """What a run did; `planned` is what it had to do, `skipped` what was listed and done before.

    `failures`: the first of the videos that are not ok, as many as are shown.
    """

    planned: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    skipped: int = 0
    frames: int = 0
    rows: int = 0
    wall_s: float = 0.0
    frames_per_s: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, record: LedgerRecord, unit: Unit) -> None:
        """Counts the videos of `unit`, which is committed."""
        for outcome in record.of(unit):
            row = outcome.row
            setattr(self, row["status"], getattr(self, row["status"]) + 1)
            self.rows += outcome.rows
            self.frames += row["frames"]
            if row["status"] != "ok" and len(self.failures) < MAX_FAILURES_SHOWN:
                self.failures.append({key: row[key] or "" for key in ("uri", "status", "reason", "message")})

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "failures"}


def parcels(videos: Sequence[Video]) -> list[list[dict[str, Any]]]:
    """Longest first, so that no long video is left for the end; small ones together."""
    made: list[list[dict[str, Any]]] = []
    room = 0
    for video in sorted(videos, key=lambda video: (-video.size, video.video_id)):
        if not made or video.size > room or len(made[-1]) >= PARCEL_VIDEOS:
            made.append([])
            room = max(PARCEL_BYTES, video.size)
        made[-1].append({field.name: getattr(video, field.name) for field in fields(video)})
        room -= video.size
    return made


def run(
    destination: Destination,
    listing: Iterable[pa.RecordBatch],
    make_processor: MakeProcessor,
    options: JobOptions,
) -> Summary:
    """Plans what the listing adds, does all that is planned and not done, commits it. Raises `MienError`."""
    started = time.monotonic()
    run_id = f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    committer = Committer(destination)
    listed: list[pa.Array] = []
    put = not options.dry_run
    if put:
        claim(destination.lake)
        committer.record_config()
    else:
        check(destination.lake)
    committer.plan.extend(_counted(listing, listed), limit=options.limit, put=put)
    if options.retry_failed is not None:
        committer.retry_failed(options.retry_failed or None, put=put)
    units = committer.pending()
    if options.dry_run:
        for unit in units:
            print(*(video.uri for video in unit.videos), sep="\n")
    summary = Summary(planned=units.videos, skipped=_done_before(listed, committer, units))
    if units and not options.dry_run:
        _do(
            committer, units, WorkerFactory(destination, make_processor, run_id), cluster.Pool(options.workers), summary
        )
    summary.wall_s = round(time.monotonic() - started, 3)
    summary.frames_per_s = round(summary.frames / summary.wall_s, 2) if summary.wall_s else 0.0
    if not options.dry_run:
        if summary.planned != summary.ok + summary.partial + summary.failed:
            raise MienError(
                f"{summary.planned} videos were planned, but {summary.ok} ok, {summary.partial} partial and "
                f"{summary.failed} failed do not add up to them: run the job again"
            )
        committer.record_run(run_id, summary.as_json())
    return summary


def _counted(listing: Iterable[pa.RecordBatch], listed: list[pa.Array]) -> Iterator[pa.RecordBatch]:
    for batch in listing:
        listed.append(batch.column("video_id"))
        yield batch


def _done_before(listed: list[pa.Array], committer: Committer, units: Units) -> int:
    """How many of the listed videos are planned and no longer pending."""
    if not listed:
        return 0
    unique = pa.chunked_array([pa.chunked_array(listed).unique()])
    pending = pc.is_in(unique, units.video_ids)
    return pc.sum(pc.and_not(committer.plan.knows(unique), pending)).as_py()


def _rounds(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units in the order of the plan, some thousands of videos at a time: a million need not be in memory at once."""
    some: list[Unit] = []
    videos = 0
    for unit in units:
        some.append(unit)
        videos += len(unit.videos)
        if videos >= ROUND_VIDEOS:
            yield some
            some, videos = [], 0
    if some:
        yield some


class _Round:
    """Units under way: which videos each still waits for, and the commits that were started."""

    def __init__(self, committer: Committer, units: list[Unit], pool: ThreadPoolExecutor) -> None:
        self.committer, self.pool = committer, pool
        self.units = {unit.id: unit for unit in units}
        self.left: dict[str, set[str]] = {}
        self.todo: list[Video] = []
        self.commits: list[tuple[Unit, Future[LedgerRecord]]] = []
        begun = committer.begun()
        for unit in units:
            staged = committer.staged(unit) if unit.id in begun else {}
            videos = [video for video in unit.videos if video.video_id not in staged]
            self.left[unit.id] = {video.video_id for video in videos}
            self.todo += videos
            self._commit_if_whole(unit.id)

    def finished(self, done: Done) -> None:
        self.left[done.unit].discard(done.video_id)
        self._commit_if_whole(done.unit)

    def _commit_if_whole(self, unit_id: str) -> None:
        if not self.left[unit_id]:
            unit = self.units[unit_id]
            self.commits.append((unit, self.pool.submit(self.committer.commit, unit)))

    def account(self, summary: Summary, *, wait: bool) -> None:
        """Adds what is committed to the summary; raises what a commit raised."""
        unfinished = []
        for unit, commit in self.commits:
            if wait or commit.done():
                summary.add(commit.result(), unit)
            else:
                unfinished.append((unit, commit))
        self.commits = unfinished


def _do(committer: Committer, units: Units, factory: WorkerFactory, pool: cluster.Pool, summary: Summary) -> None:
    with (
        _commit_threads() as threads,
        Progress(total=units.videos, total_cost=units.bytes) as bar,
        cluster.session(),
    ):
        scratch.claim()  # after Ray has made its own place, whose sockets' paths must stay short
        for some in _rounds(units):
            _do_round(_Round(committer, some, threads), factory, pool, bar, summary)


@contextmanager
def _commit_threads() -> Iterator[ThreadPoolExecutor]:
    """After an error, no commit is begun and those at work are waited for; after an interrupt, nothing is."""
    threads = ThreadPoolExecutor(COMMITTERS, thread_name_prefix="commit")
    try:
        yield threads
    except BaseException as error:
        threads.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
        raise
    threads.shutdown()


def _do_round(round_: _Round, factory: WorkerFactory, pool: cluster.Pool, bar: Progress, summary: Summary) -> None:
    staged = [
        video for unit in round_.units.values() for video in unit.videos if video.video_id not in round_.left[unit.id]
    ]
    bar.skip(done=len(staged), cost=sum(video.size for video in staged))
    work = parcels(round_.todo)
    with closing(cluster.map_parcels(work, factory, pool, lambda frames: bar.update(frames=frames))) as results:
        for finished in results:
            for done in finished:
                round_.finished(done)
                bar.update(done=1, failed=done.failed, cost=done.size)
            round_.account(summary, wait=False)
    round_.account(summary, wait=True)


def tell(summary: Summary, options: JobOptions) -> int:
    """Says what a run did, in words on stderr or as JSON on stdout; returns the exit status: 3 if videos failed."""
    for failure in summary.failures:
        print(log.redact("{status}: {uri}: {reason}: {message}".format(**failure)), file=sys.stderr)
    if more := summary.partial + summary.failed - len(summary.failures):
        print(f"... and {more} more: see the table videos", file=sys.stderr)
    print(_in_words(summary, options), file=sys.stderr)
    if options.json:
        emit_json(summary.as_json())
    return 3 if summary.failed else 0


def _in_words(summary: Summary, options: JobOptions) -> str:
    if options.dry_run:
        return f"would do {summary.planned} videos, {summary.skipped} are done"
    if not summary.planned:
        return f"nothing to do: all {summary.skipped} videos were done before"
    return (
        f"{summary.ok} videos ok, {summary.partial} partial, {summary.failed} failed, {summary.skipped} done before; "
        f"{summary.frames} frames, {summary.rows} rows in {summary.wall_s:.1f} s ({summary.frames_per_s:.1f} frames/s)"
    )
