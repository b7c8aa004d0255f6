"""A job over the videos of an archive: plan, hand out, count strikes, commit, account for every video.

`ingest` and `score` are each a `Processor` that this module runs; Ray is behind `common.cluster`, storage behind
`common.commit`.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

import common
from common import cluster, log, scratch
from common.cli import JobOptions, emit_json
from common.commit import Committer, Job, LedgerRecord, Outcome, Staging
from common.errors import MienError, VideoError
from common.faults import fault
from common.progress import Progress
from common.store import StoreSettings
from common.units import Unit, Units, Video

STRIKES = 3
BUNDLE_BYTES = 3_000_000  # about 30 s of a worker's time at 640x360
BUNDLE_VIDEOS = 64
COMMITTERS = 2
ROUND_VIDEOS = 20_000
MAX_FAILURES_SHOWN = 100


class Processor(Protocol):
    """What a worker does with a video."""

    def prefetch(self, video: Video) -> None:
        """Begins to fetch the video that comes next."""

    def process(self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]) -> dict[str, Any]:
        """Writes the video's rows in order and returns what it knows of the `videos` row; raises `VideoError`.

        `beat(frames)` is called with the number of frames done since the last call.
        """


# How to reach S3 goes to the workers with the job: a cluster's nodes do not have the driver's environment.
MakeProcessor = Callable[[StoreSettings], Processor]


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


class Done(NamedTuple):
    """A video has an outcome, staged or committed; `size` in bytes."""

    unit: str
    video_id: str
    size: int
    failed: bool


class _Worker:
    """Runs in an actor: videos of a bundle one after the other, each staged before the next."""

    def __init__(self, job: Job, make_processor: MakeProcessor, run_id: str) -> None:
        scratch.claim()
        self.staging = Staging(job)
        self.committer = Committer(job)
        self.processor = make_processor(job.lake.store.settings)
        self.run_id = run_id
        self.log = log.get("worker")

    def __call__(self, bundle: list[dict[str, Any]], beat: Callable[[str, int], None]) -> list[Done]:
        """Of each of the bundle's videos, that it has an outcome."""
        videos = [Video(**video) for video in bundle]
        records = {unit: self.committer.recorded(unit) for unit in {video.unit for video in videos}}
        done = []
        for video, following in zip(videos, [*videos[1:], None], strict=True):
            # A run beside this one may have been faster, and may have committed the unit already.
            outcome = self.staging.outcome(video) or _known(records[video.unit], video)
            if outcome is None:
                if following is not None:
                    self.processor.prefetch(following)
                beat(video.uri, 0)
                outcome = self._finish(video, partial(beat, video.uri))
            done.append(Done(video.unit, video.video_id, video.size, outcome.row["status"] == "failed"))
        return done

    def _finish(self, video: Video, beat: Callable[[int], None]) -> Outcome:
        """Tries a video until it has an outcome: three attempts that kill or break the worker are its end."""
        broken = "its worker was killed"
        while True:
            strikes = self.staging.strikes(video)
            living = cluster.living_nodes()
            # A node that was taken away, or a run that was killed, is not the video's fault.
            counted = sum(strike.run_id == self.run_id and strike.node_id in living for strike in strikes)
            started = time.monotonic()

            def row(known: dict[str, Any], attempts: int, started: float = started) -> dict[str, Any]:
                return known | self._account(video, attempts, time.monotonic() - started)

            if counted >= STRIKES:
                message = f"{counted} attempts ended without a result, the last because {broken}"
                return self.staging.fail(video, row(_failed("worker_lost", message), len(strikes)))
            attempt = uuid.uuid4().hex
            self.staging.strike(video, self.run_id, cluster.node_id(), attempt)
            fault("worker.attempt", video.uri)
            try:
                with self.staging.writer(video, attempt) as writer:
                    known = self.processor.process(video, writer.write, beat)
                    return writer.finish(row(known, len(strikes) + 1))
            except VideoError as error:
                return self.staging.fail(video, row(_failed(error.reason, error.message), len(strikes) + 1))
            except MienError:
                raise
            except MemoryError:
                message = "the worker ran out of memory: give it more or lower the batch size"
                return self.staging.fail(video, row(_failed("memory_limit", message), len(strikes) + 1))
            except Exception as error:
                broken = f"{type(error).__name__}: {error}"
                self.log.exception("attempt failed", uri=video.uri, attempt=counted + 1)

    def _account(self, video: Video, attempts: int, wall_s: float) -> dict[str, Any]:
        return {
            "video_id": video.video_id,
            "uri": video.uri,
            "version": video.version,
            "size": video.size,
            "attempts": attempts,
            "wall_s": wall_s,
            "run_id": self.run_id,
            "code_version": common.__version__,
            "finished_at": datetime.now(UTC),
        }


def _known(record: LedgerRecord | None, video: Video) -> Outcome | None:
    for outcome in record.videos if record else ():
        if outcome.video_id == video.video_id and outcome.revision >= video.revision:
            return outcome
    return None


def _failed(reason: str, message: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "reason": reason,
        "message": message,
        "frames": 0,
        "frames_with_face": 0,
        "tracks": 0,
    }


@dataclass(frozen=True)
class _WorkerFactory:
    """Picklable: what an actor is built from."""

    job: Job
    make_processor: MakeProcessor
    run_id: str

    def __call__(self) -> _Worker:
        return _Worker(self.job, self.make_processor, self.run_id)


def bundles(videos: Sequence[Video]) -> list[list[dict[str, Any]]]:
    """Longest first, so that no long video is left for the end; small ones together."""
    made: list[list[dict[str, Any]]] = []
    room = 0
    for video in sorted(videos, key=lambda video: (-video.size, video.video_id)):
        if not made or video.size > room or len(made[-1]) >= BUNDLE_VIDEOS:
            made.append([])
            room = max(BUNDLE_BYTES, video.size)
        made[-1].append({field.name: getattr(video, field.name) for field in fields(video)})
        room -= video.size
    return made


def run(
    job: Job,
    listing: Iterable[pa.RecordBatch],
    make_processor: MakeProcessor,
    options: JobOptions,
) -> Summary:
    """Plans what the listing adds, does all that is planned and not done, commits it. Raises `MienError`."""
    started = time.monotonic()
    run_id = f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    committer = Committer(job)
    listed: list[pa.Array] = []
    put = not options.dry_run
    if put:
        committer.record_config()
    committer.plan.extend(_counted(listing, listed), limit=options.limit, put=put)
    if options.retry_failed is not None:
        committer.retry_failed(options.retry_failed or None, put=put)
    units = committer.pending()
    if options.dry_run:
        for unit in units:
            print(*(video.uri for video in unit.videos), sep="\n")
    summary = Summary(planned=units.videos, skipped=_done_before(listed, committer, units))
    if units and not options.dry_run:
        _do(committer, units, _WorkerFactory(job, make_processor, run_id), cluster.Pool(options.workers), summary)
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


def _do(committer: Committer, units: Units, factory: _WorkerFactory, pool: cluster.Pool, summary: Summary) -> None:
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


def _do_round(round_: _Round, factory: _WorkerFactory, pool: cluster.Pool, bar: Progress, summary: Summary) -> None:
    staged = [
        video for unit in round_.units.values() for video in unit.videos if video.video_id not in round_.left[unit.id]
    ]
    bar.skip(videos=len(staged), cost=sum(video.size for video in staged))
    work = bundles(round_.todo)
    with closing(cluster.map_bundles(work, factory, pool, lambda frames: bar.update(frames=frames))) as results:
        for finished in results:
            for done in finished:
                round_.finished(done)
                bar.update(videos=1, failed=done.failed, cost=done.size)
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
