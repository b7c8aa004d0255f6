"""A job over the videos of an archive: plan them, give them to workers, commit them, and count every outcome.

`ingest` and `score` each define a `Processor`, which `worker` runs in the processes of a `Pool`. This process, the
driver, plans and counts: no row passes through it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from common import environment, log, scratch
from common.cli import JobOptions
from common.commit.committer import Committer
from common.commit.staging import Destination
from common.commit.units import Unit, Units, Video
from common.errors import MienError
from common.lake.format import check_writable, claim
from common.progress import Progress
from common.run.interrupt import sigterm_as_ctrl_c
from common.run.pool import Pool, PoolOptions
from common.run.summary import Counts, Summary
from common.run.worker import Commit, Done, MakeProcessor, Parcel, WorkerFactory

PARCEL_BYTES = 3_000_000  # about 30 s of a worker's time at 640x360
PARCEL_VIDEOS = 64
ROUND_VIDEOS = 20_000
COUNTED_UNITS = 100  # records of the ledger that are read to count old failures: about 0.4 s on a local disk


def parcels(videos: Sequence[Video]) -> list[Parcel]:
    """Groups the videos into parcels, largest first, so that no long video is left for the end."""
    made: list[list[Video]] = []
    room = 0
    for video in sorted(videos, key=lambda video: (-video.size, video.video_id)):
        if not made or video.size > room or len(made[-1]) >= PARCEL_VIDEOS:
            made.append([])
            room = max(PARCEL_BYTES, video.size)
        made[-1].append(video)
        room -= video.size
    return [Parcel(tuple(some)) for some in made]


def run(
    destination: Destination,
    listing: Iterable[pa.RecordBatch],
    make_processor: MakeProcessor,
    options: JobOptions,
) -> Summary:
    """Plans the new videos of `listing`, then processes and commits all that are planned and not done.

    Returns what was done. Raises `MienError`.
    """
    started = time.monotonic()
    check_writable(destination.lake)
    committer = Committer(destination)
    if options.dry_run:
        units, summary = _plan(committer, listing, options)
        for unit in units:
            print(*(video.uri for video in unit.videos), sep="\n")
        return summary
    run_id = f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    make = WorkerFactory(destination, make_processor, run_id)
    with scratch.claimed(), sigterm_as_ctrl_c(), _pool(make, options) as pool:
        claim(destination.lake)
        committer.record_config()
        units, summary = _plan(committer, listing, options)
        if units:
            _do(committer, units, pool, summary)
    summary.wall_s = round(time.monotonic() - started, 3)
    if summary.planned != summary.ok + summary.partial + summary.failed:
        raise MienError(
            f"{summary.planned} videos were planned, but {summary.ok} ok, {summary.partial} partial and "
            f"{summary.failed} failed do not add up to them: run the job again"
        )
    committer.record_run(run_id, summary.as_json())
    return summary


def _pool(make: WorkerFactory, options: JobOptions) -> Pool:
    """A pool of local processes, or of Ray if `--on ray` or RAY_ADDRESS says so."""
    where = options.on or ("ray" if environment.RAY_ADDRESS.get() else "local")
    pool_options = PoolOptions(options.workers)
    if where == "ray":
        from common.run.cluster.pool import RayPool

        return RayPool(make, pool_options)
    from common.run.local import LocalPool

    return LocalPool(make, pool_options)


def _plan(committer: Committer, listing: Iterable[pa.RecordBatch], options: JobOptions) -> tuple[Units, Summary]:
    """The units to be done, and the summary before any is done. A dry run writes nothing."""
    listed: list[pa.Array] = []
    put = not options.dry_run
    committer.plan.extend(_counted(listing, listed), limit=options.limit, put=put)
    if options.retry_failed is not None:
        committer.retry_failed(options.retry_failed or None, put=put)
    units = committer.pending()
    done = _done_before(listed, committer, units)
    keys = dict(committer.destination.data.keys)
    return units, Summary(
        keys=keys, planned=units.videos, skipped=len(done), failed_before=_failed_before(done, committer)
    )


def _counted(listing: Iterable[pa.RecordBatch], listed: list[pa.Array]) -> Iterator[pa.RecordBatch]:
    for batch in listing:
        listed.append(batch.column("video_id"))
        yield batch


def _done_before(listed: list[pa.Array], committer: Committer, units: Units) -> pa.Array:
    """The ids of the listed videos that are planned and no longer pending."""
    unique = pa.chunked_array([pa.chunked_array(listed, pa.string()).unique()])
    pending = pc.is_in(unique, units.video_ids)
    return unique.filter(pc.and_not(committer.plan.knows(unique), pending)).combine_chunks()


def _failed_before(done: pa.Array, committer: Committer) -> int | None:
    """How many of these videos failed; None if the ledger is too long to be read for this."""
    if not len(done):
        return 0
    if committer.committed > COUNTED_UNITS:
        return None
    return int(pc.sum(pc.is_in(done, pa.array(committer.failed(), pa.string()))).as_py())


def _rounds(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """The units in order, in groups of about `ROUND_VIDEOS` videos, so that a million need not be in memory at once."""
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
    """The units of one round, and the videos that each still waits for."""

    def __init__(self, committer: Committer, units: list[Unit]) -> None:
        self.units = {unit.id: unit for unit in units}
        self.left: dict[str, set[str]] = {}
        self.todo: list[Video] = []
        self.staged: list[Video] = []
        begun = committer.begun()
        for unit in units:
            staged = committer.staged(unit) if unit.id in begun else set()
            for video in unit.videos:
                (self.staged if video.video_id in staged else self.todo).append(video)
            self.left[unit.id] = {video.video_id for video in unit.videos} - staged

    def whole(self) -> list[Unit]:
        """The units all of whose videos are staged."""
        return [unit for unit in self.units.values() if not self.left[unit.id]]

    def finished(self, done: Done) -> Unit | None:
        """Notes that a video is done. Returns its unit if that was the last video it waited for."""
        left = self.left[done.unit]
        if done.video_id not in left:
            return None
        left.remove(done.video_id)
        return None if left else self.units[done.unit]


def _do(committer: Committer, units: Units, pool: Pool, summary: Summary) -> None:
    log.get("run").info("planned", videos=units.videos, units=len(units))
    with Progress(total=units.videos, total_cost=units.bytes, doing=pool.doing) as bar:
        for some in _rounds(units):
            _do_round(_Round(committer, some), pool, bar, summary)


def _do_round(round_: _Round, pool: Pool, bar: Progress, summary: Summary) -> None:
    bar.skip(done=len(round_.staged), cost=sum(video.size for video in round_.staged))
    for unit in round_.whole():
        pool.submit(Commit(unit))
    with closing(pool.map_parcels(parcels(round_.todo), lambda frames: bar.update(frames=frames))) as results:
        for result in results:
            if isinstance(result, Counts):
                summary.add(result)
                continue
            for done in result:
                bar.update(done=1, failed=done.failed, cost=done.size, whole=done.frames)
                if whole := round_.finished(done):
                    pool.submit(Commit(whole))
