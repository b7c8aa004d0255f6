"""Ingested faces, read from the lake as one stream per video."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.commit.committer import Committer
from common.commit.record import LedgerRecord, Outcome
from common.commit.staging import Destination
from common.commit.units import LISTING, Video
from common.crops import Crop
from common.errors import NotFound, UsageError, VideoError
from common.faces import FaceBatch, from_faces
from common.lake.format import check
from common.lake.layout import Lake, Partition
from common.lake.schema import FACES
from score.config import made_with, stored

FRAME_ROWS = 512  # rows decoded at a time; whole frames


@dataclass(frozen=True)
class Ingested:
    """The faces of one archive under one configuration of `mien ingest`. Picklable."""

    lake: Lake
    partition: Partition

    @property
    def ingest(self) -> str:
        """The digest of the configuration that the faces were ingested with."""
        return self.partition["ingest"]

    def committer(self) -> Committer:
        """Reads the plan and ledger of the faces; commits nothing."""
        return Committer(Destination.of(self.lake, self.partition))

    def listing(self) -> Iterator[pa.RecordBatch]:
        """Every ingested video that has frames, schema `LISTING`."""
        for record in self.committer().records():
            rows = [outcome.row for outcome in record.videos if outcome.row["status"] != "failed"]
            columns = {name: [row[name] for row in rows] for name in LISTING.names}
            yield pa.RecordBatch.from_pydict(columns, schema=LISTING)


def find(lake: Lake, archive: str, ingest: str | None, crop: Crop) -> Ingested:
    """The faces of `archive`, cut as `crop` says; `ingest` chooses among several. Raises `UsageError`."""
    check(lake)
    partitions = lake.partitions("faces")
    found = {partition["ingest"]: partition for partition in partitions if partition["archive"] == archive}
    if not found:
        others = ", ".join(sorted({partition["archive"] for partition in partitions}))
        what_to_do = f"choose one of {others} with --archive" if others else "run `mien ingest` first"
        raise UsageError(f"no faces of archive {archive} in {lake.url}: {what_to_do}")
    partition = found.get(ingest or "") if ingest or len(found) > 1 else next(iter(found.values()))
    if partition is None:
        ways = ", ".join(f"{name} ({made_with(stored(lake, way))})" for name, way in sorted(found.items()))
        problem = f"has no faces under ingest={ingest}" if ingest else "was ingested in several ways"
        raise UsageError(f"archive {archive} {problem}: choose one of {ways} with --ingest")
    if partition.shipped:
        raise UsageError(
            f"archive {archive} has crops that a dataset ships, and the bundle takes {_described(crop)} cut by mien: "
            "score the videos themselves, or ask `mien evaluate`"
        )
    has = Crop(**json.loads(lake.store.read(lake.config_key(partition)))["faces"]["align"])
    if has != crop:
        keys = " ".join(f"--set faces.align.{key}={value}" for key, value in crop if value != getattr(has, key))
        raise UsageError(
            f"the bundle takes {_described(crop)} and archive {archive} has {_described(has)}: ingest it with {keys}, "
            "or score the videos themselves"
        )
    return Ingested(lake, partition)


def _described(crop: Crop) -> str:
    return f"crops of {crop.size} pixels" + (f" with a margin of {crop.margin:g}" if crop.margin else "")


class IngestedFaces:
    """Gives the faces of videos, like `ingest.source.FaceSource`, but from the lake.

    Memory: 36 bytes for each ingested video, and the ledger record of one unit.
    """

    def __init__(self, ingested: Ingested) -> None:
        self._ingested = ingested
        plan = ingested.committer().plan
        plan.load()
        units = plan.units()
        ids = np.fromiter((video.video_id for unit in units for video in unit.videos), "S32", units.videos)
        order = np.argsort(ids)
        self._names = [unit.id for unit in units]
        self._ids = ids[order]
        self._unit = np.repeat(np.arange(len(units), dtype=np.int32), [len(unit.videos) for unit in units])[order]
        self._record: LedgerRecord | None = None

    def prefetch(self, video: Video) -> None:
        """Does nothing: parts are not downloaded."""

    @contextmanager
    def open(self, video: Video, beat: Callable[[int], None] | None = None) -> Iterator[IngestedStream]:
        """The video's ingested faces. Nothing has to be waited for, so `beat` is never called."""
        record = self._record_of(video)
        found = [outcome for outcome in record.videos if outcome.video_id == video.video_id] if record else []
        if record is None or not found or found[0].row["status"] == "failed":
            raise VideoError("missing", "the video has no ingested faces: run `mien ingest` on it first")
        (outcome,) = found
        if outcome.row["version"] != video.version:
            raise VideoError("changed", "the video changed since its faces were ingested: run `mien ingest` again")
        lake, partition = self._ingested.lake, self._ingested.partition
        yield IngestedStream(lake, outcome, [lake.part_key(partition, record.unit, n) for n in outcome.pieces])

    def _record_of(self, video: Video) -> LedgerRecord | None:
        """The ledger record of the unit that the video was ingested in, if the unit is committed."""
        at = int(np.searchsorted(self._ids, video.video_id.encode()))
        if at == len(self._ids) or self._ids[at].decode() != video.video_id:
            return None
        unit = self._names[self._unit[at]]
        if self._record is None or self._record.unit != unit:
            lake, partition = self._ingested.lake, self._ingested.partition
            try:
                key = lake.ledger_key(partition, unit)
                self._record = LedgerRecord.from_json(lake.store.read(key), key)
            except NotFound:
                return None
        return self._record


class IngestedStream:
    """One video's rows of `faces`, in batches of whole frames."""

    def __init__(self, lake: Lake, outcome: Outcome, keys: list[str]) -> None:
        self._lake, self._outcome, self._keys = lake, outcome, keys

    def __iter__(self) -> Iterator[FaceBatch]:
        rest = FACES.empty_table()
        for rows in self._rows():
            rest = pa.concat_tables([rest, rows])
            if len(rest) > FRAME_ROWS:
                # More faces of the last frame may be among the next rows.
                whole = pc.index(rest["frame_index"], rest["frame_index"][-1]).as_py()
                if whole:
                    yield from_faces(rest.slice(0, whole))
                    rest = rest.slice(whole)
        if len(rest):
            yield from_faces(rest)

    def _rows(self) -> Iterator[pa.Table]:
        wanted = self._outcome.video_id
        for key in self._keys:
            with self._lake.store.open_input(key) as file:
                part = pq.ParquetFile(file)
                for group in range(part.num_row_groups):
                    statistics = part.metadata.row_group(group).column(0).statistics
                    if statistics is not None and not statistics.min <= wanted <= statistics.max:
                        continue
                    for batch in part.iter_batches(FRAME_ROWS, row_groups=[group]):
                        rows = pa.Table.from_batches([batch])
                        yield rows.filter(pc.equal(rows["video_id"], wanted)).cast(FACES)

    def account(self) -> dict[str, Any]:
        """The columns of the `videos` table, copied from ingestion."""
        kept = (
            *("status", "reason", "message", "container", "codec", "width", "height", "fps", "rotation"),
            *("frames", "frames_with_face", "tracks", "duration_s", "decoder"),
        )
        return {name: self._outcome.row[name] for name in kept}
