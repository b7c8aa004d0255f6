"""What a worker of a job does: it tries each video until its outcome is staged, and it commits whole units.

Before a worker opens a video, it puts a strike. If the video kills the worker, the next worker finds the strike.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

import common
from common import log, scratch
from common.commit.committer import Committer
from common.commit.record import LedgerRecord, Outcome
from common.commit.staging import Destination, Staging
from common.commit.units import Unit, Video
from common.errors import DecoderKilled, MienError, VideoError
from common.faults import fault
from common.run.pool import Beat, Node
from common.run.summary import Counts
from common.run.watchdog import BUILDING
from common.store.base import StoreSettings

STRIKES = 3


class Processor(Protocol):
    """What a worker does with a video."""

    def prefetch(self, video: Video) -> None:
        """Starts to download the video that comes next."""

    def process(self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]) -> dict[str, Any]:
        """Writes the video's rows in order and returns its columns of the `videos` row; raises `VideoError`.

        `beat(frames)` is called with the number of frames done since the last call.
        """


class MakeProcessor(Protocol):
    """Picklable recipe of a processor."""

    def prepare(self) -> None:
        """Imports what the processor needs. Starts no thread, as processes are forked afterwards."""

    def __call__(self, settings: StoreSettings) -> Processor:
        """`settings`: how to reach S3. On a cluster, the nodes' environment does not say it."""


@dataclass(frozen=True)
class Parcel:
    """A task: videos that one worker does one after the other, each staged before the next is opened."""

    videos: tuple[Video, ...]


@dataclass(frozen=True)
class Commit:
    """A task: commit a unit all of whose videos are staged."""

    unit: Unit

    def __str__(self) -> str:
        return f"commit of unit {self.unit.id}"


class Done(NamedTuple):
    """A video has an outcome, staged or committed; `size` in bytes."""

    unit: str
    video_id: str
    size: int
    frames: int
    failed: bool


class Worker:
    """Does the parcels and commits of one job in one process."""

    def __init__(self, destination: Destination, make_processor: MakeProcessor, run_id: str, node: Node) -> None:
        scratch.claim()
        self.destination, self.run_id, self.node = destination, run_id, node
        self.staging = Staging(destination)
        self.committer = Committer(destination)
        self.make_processor = make_processor
        self.processor: Processor | None = None
        self.log = log.get("worker")

    def __call__(self, task: Parcel | Commit, beat: Beat) -> list[Done] | Counts:
        """Returns for a parcel a `Done` for each video, for a commit the counts of its videos."""
        if isinstance(task, Commit):
            record = Committer(self.destination, partial(beat, str(task), 0)).commit(task.unit)
            return Counts.of(record, task.unit)
        return list(self._do(task.videos, beat))

    def _do(self, videos: tuple[Video, ...], beat: Beat) -> Iterator[Done]:
        if self.processor is None:
            beat(BUILDING, 0)
            self.processor = self.make_processor(self.destination.lake.store.settings)
        records = {unit: self.committer.recorded(unit) for unit in {video.unit for video in videos}}
        for video, following in zip(videos, [*videos[1:], None], strict=True):
            # Another run may have finished the video, and may even have committed its unit.
            outcome = self.staging.outcome(video) or _known(records[video.unit], video)
            if outcome is None:
                if following is not None:
                    self.processor.prefetch(following)
                beat(video.uri, 0)
                outcome = self._finish(self.processor, video, partial(beat, video.uri))
            yield Done(video.unit, video.video_id, video.size, outcome.row["frames"], outcome.row["status"] == "failed")

    def _finish(self, processor: Processor, video: Video, beat: Callable[[int], None]) -> Outcome:
        """Tries a video until it has an outcome. It fails after `STRIKES` attempts without one."""
        broken = "its worker was killed"
        while True:
            strikes = self.staging.strikes(video)
            living = self.node.living()
            # Only strikes of this run on living nodes count: a lost node or a killed run is not the video's fault.
            counted = sum(strike.run_id == self.run_id and strike.node_id in living for strike in strikes)
            started = time.monotonic()

            def row(known: dict[str, Any], attempts: int, started: float = started) -> dict[str, Any]:
                return known | self._account(video, attempts, time.monotonic() - started)

            if counted >= 2 * STRIKES:
                raise MienError(
                    f"{counted - STRIKES} workers were killed while they recorded that {video.uri} failed, most likely "
                    "for lack of memory: give workers more of it, then run the job again"
                )
            attempt = uuid.uuid4().hex
            self.staging.strike(video, self.run_id, self.node.id, attempt)
            if counted >= STRIKES:
                # Counted by a strike, too: the pool would replace workers that die here any number of times.
                message = f"{STRIKES} attempts ended without a result, the last because {broken}"
                attempts = len(strikes) - (counted - STRIKES)
                return self.staging.fail(video, row(_failed("worker_lost", message), attempts))
            fault("worker.attempt", video.uri)
            try:
                with self.staging.writer(video, attempt) as writer:
                    known = processor.process(video, writer.write, beat)
                    return writer.finish(row(known, len(strikes) + 1))
            except DecoderKilled as error:
                if counted + 1 >= STRIKES:
                    message = f"{error.message}; {counted + 1} attempts were made"
                    return self.staging.fail(video, row(_failed(error.reason, message), len(strikes) + 1))
                self.log.warning("the decoder was killed", uri=video.uri, attempt=counted + 1)
            except VideoError as error:
                return self.staging.fail(video, row(_failed(error.reason, error.message), len(strikes) + 1))
            except MienError:
                raise
            except MemoryError:
                message = "the worker ran out of memory: give it more or lower the batch size"
                return self.staging.fail(video, row(_failed("memory_limit", message), len(strikes) + 1))
            except Exception as error:
                broken = log.redact(f"{type(error).__name__}: {error}")
                self.log.exception("attempt failed", uri=video.uri, attempt=counted + 1)

    def _account(self, video: Video, attempts: int, wall_s: float) -> dict[str, Any]:
        return {
            "video_id": video.video_id,
            "uri": video.uri,
            "video_name": video.name,
            "model": dict(self.staging.destination.data.keys).get("model"),
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
class WorkerFactory:
    """Makes the worker of a process. Picklable."""

    destination: Destination
    make_processor: MakeProcessor
    run_id: str

    def prepare(self) -> None:
        self.make_processor.prepare()

    def __call__(self, node: Node) -> Worker:
        return Worker(self.destination, self.make_processor, self.run_id, node)
