"""A worker's side of a commit: a finished video waits outside the tables for the commit of its unit.

Each attempt at a video puts its rows as pieces into a folder of its own, below
`_staging/<partition>/<unit>/<video_id>-<version>-r<revision>/`. Its last step is `outcome.json` there, which is
create-only and names the attempt: so the first attempt that finishes is the one whose pieces count. Before an attempt
opens the video, it puts a strike below `_strikes/`. The strikes show how many attempts have killed their worker.
Fault points (detail: the key): strike.before, strike.after, piece.before, piece.after, outcome.before, outcome.after.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from common import scratch
from common.commit.record import Outcome
from common.commit.units import Video
from common.errors import AlreadyExists, NotFound
from common.faults import fault
from common.lake.layout import Lake, Partition
from common.lake.parts import STAGED_ROW_GROUP_BYTES, PartWriter, check_part
from common.lake.schema import TABLES


@dataclass(frozen=True)
class Destination:
    """Where a job writes: the partition of its rows (`data`), that of their outcomes (`videos`), and the configuration.

    With `frames_per_part` = f, part n of a unit holds the frames from n * f to (n + 1) * f - 1 of each of its videos;
    None: one part holds all.
    """

    lake: Lake
    data: Partition
    videos: Partition
    schema: pa.Schema
    config: dict[str, Any]
    frames_per_part: int | None = None

    @classmethod
    def of(cls, lake: Lake, data: Partition) -> Destination:
        """The destination with the rows `data`, from its stored configuration. Raises `NotFound` if there is none."""
        config = json.loads(lake.store.read(lake.config_key(data)))
        return cls(lake, data, data.videos, TABLES[data.table], config, config.get("frames_per_part"))


@dataclass(frozen=True)
class Strike:
    """An attempt at a video began."""

    attempt_id: str
    run_id: str
    node_id: str
    time: str


def staged_name(video: Video) -> str:
    """The folder of a video in staging and strikes. The version is hashed: it may hold any character."""
    version = hashlib.sha256(video.version.encode()).hexdigest()[:12]
    return f"{video.video_id}-{version}-r{video.revision}"


class Staging:
    """The staged videos of one destination. Picklable. Each `Video` must carry the unit and revision of the plan."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._store = destination.lake.store

    def outcome(self, video: Video) -> Outcome | None:
        """The outcome of the attempt that finished first; None if the video is not staged."""
        try:
            return Outcome.from_dict(json.loads(self._store.read(self._outcome_key(video))))
        except NotFound:
            return None

    def strike(self, video: Video, run_id: str, node_id: str, attempt_id: str) -> None:
        """Records that an attempt begins. Call it before the video is opened."""
        key = f"{self._strikes(video)}{attempt_id}.json"
        content = {"run_id": run_id, "node_id": node_id, "time": datetime.now(UTC).isoformat()}
        fault("strike.before", key)
        self._store.create(key, json.dumps(content).encode())
        fault("strike.after", key)

    def strikes(self, video: Video) -> list[Strike]:
        """Every attempt so far, the earliest first."""
        prefix = self._strikes(video)
        found = []
        for entry in self._store.list(prefix):
            try:
                content = json.loads(self._store.read(entry.key))
            except NotFound:
                continue  # another process has committed the unit and removed its strikes
            found.append(Strike(entry.key[len(prefix) :].removesuffix(".json"), **content))
        return sorted(found, key=lambda strike: strike.time)

    def writer(self, video: Video, attempt_id: str) -> VideoWriter:
        """A context manager that takes the video's rows, in order."""
        return VideoWriter(self, video, attempt_id)

    def fail(self, video: Video, row: dict[str, Any]) -> Outcome:
        """Finishes a video without rows. Returns the outcome that counts, which may be that of another attempt."""
        return self.publish(video, Outcome.of(row, video.revision, "", {}))

    def publish(self, video: Video, outcome: Outcome) -> Outcome:
        """Puts the outcome, create-only. Returns the outcome that counts."""
        key = self._outcome_key(video)
        fault("outcome.before", key)
        try:
            self._store.create(key, json.dumps(outcome.to_dict()).encode())
        except AlreadyExists:
            return self.outcome(video) or outcome
        fault("outcome.after", key)
        return outcome

    def piece_key(self, video: Video, attempt_id: str, n: int) -> str:
        return f"{self._folder(video)}{attempt_id}/{n:05d}.parquet"

    def _outcome_key(self, video: Video) -> str:
        return f"{self._folder(video)}outcome.json"

    def _folder(self, video: Video) -> str:
        return f"{self.destination.lake.staging_prefix(self.destination.data, _unit(video))}{staged_name(video)}/"

    def _strikes(self, video: Video) -> str:
        return f"{self.destination.lake.strikes_prefix(self.destination.data, _unit(video))}{staged_name(video)}/"


class VideoWriter:
    """One attempt at a video: writes rows to local files, one per piece, checks each and uploads it.

    The attempt counts only once `finish` has put its outcome; after an exception it never does.
    """

    def __init__(self, staging: Staging, video: Video, attempt_id: str) -> None:
        self._staging, self._video, self._attempt = staging, video, attempt_id
        self._destination = staging.destination
        self._pieces: dict[int, int] = {}
        self._frames = 0
        self._piece: tuple[int, Path, PartWriter] | None = None

    def __enter__(self) -> VideoWriter:
        self._scratch = scratch.folder()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._piece is not None:
            self._piece[2].abandon()
        self._scratch.cleanup()

    def write(self, table: pa.Table) -> None:
        """Rows of the destination's schema, sorted by (frame_index, track_id) within and between calls."""
        for n, rows in self._cut(table):
            if self._piece is None or self._piece[0] != n:
                self._put_piece()
                path = Path(self._scratch.name) / f"{n:05d}.parquet"
                self._piece = (n, path, PartWriter(path, self._destination.schema, {}, STAGED_ROW_GROUP_BYTES))
            self._piece[2].write(rows)

    def finish(self, row: dict[str, Any]) -> Outcome:
        """Puts the last piece, then the outcome with this `videos` row. Returns the outcome that counts.

        Raises `ValueError` if the rows are out of order or do not fit the schema, or if the frames are not as many as
        the row says.
        """
        self._put_piece(row["frames"])
        return self._staging.publish(self._video, Outcome.of(row, self._video.revision, self._attempt, self._pieces))

    def _cut(self, table: pa.Table) -> list[tuple[int, pa.Table]]:
        step = self._destination.frames_per_part
        if step is None or not len(table):
            return [(0, table)] if len(table) else []
        numbers = table["frame_index"].to_numpy() // step
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(table)]
        return [(int(numbers[start]), table.slice(start, end - start)) for start, end in pairwise(starts)]

    def _put_piece(self, frames: int | None = None) -> None:
        """Checks and uploads the current piece, if there is one. `frames`: given at the end, how many the video has."""
        video = self._video.video_id
        piece, self._piece = self._piece, None
        if piece is not None:
            n, path, writer = piece
            writer.close()
            if n <= max(self._pieces, default=-1):
                raise ValueError(f"rows of video {video} are out of order")
            self._frames += check_part(path, self._destination.schema, {video: writer.rows}, {})[video]
        if frames not in (None, self._frames):
            raise ValueError(f"video {video} has {self._frames} frames with rows, {frames} were promised")
        if piece is None:
            return
        key = self._staging.piece_key(self._video, self._attempt, n)
        fault("piece.before", key)
        self._destination.lake.store.create(key, path)
        fault("piece.after", key)
        path.unlink()
        self._pieces[n] = writer.rows


def _unit(video: Video) -> str:
    if not video.unit:
        raise ValueError(f"{video.uri} is not planned: take videos from the plan's units")
    return video.unit
