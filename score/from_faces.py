"""Faces that are ingested, read back from the lake as a stream per video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.bundle import Crop
from common.commit import Committer, Job, Outcome
from common.errors import UsageError, VideoError
from common.lake import Lake, Partition
from common.schema import FACES
from common.units import LISTING, Video
from ingest.faces import FaceBatch
from ingest.shards import from_table

FRAME_ROWS = 512  # rows decoded at a time; whole frames


@dataclass(frozen=True)
class Ingested:
    """The faces of one archive under one configuration of `mien ingest`. Picklable."""

    lake: Lake
    partition: Partition

    def committer(self) -> Committer:
        """Reads the plan and ledger of the faces; commits nothing."""
        (_, ingest), (_, archive) = self.partition.keys
        videos = Partition("videos", (("job", f"ingest-{ingest}"), ("archive", archive)))
        return Committer(Job(self.lake, self.partition, videos, FACES, {}, frames_per_part=1))

    def listing(self) -> Iterator[pa.RecordBatch]:
        """Every ingested video that has frames, schema `LISTING`."""
        for record in self.committer().records():
            rows = [outcome.row for outcome in record.videos if outcome.row["status"] != "failed"]
            columns = {name: [row[name] for row in rows] for name in LISTING.names}
            yield pa.RecordBatch.from_pydict(columns, schema=LISTING)


def find(lake: Lake, archive: str, ingest: str | None, crop: Crop) -> Ingested:
    """The faces of `archive`, cut as `crop` says; `ingest` chooses among several. Raises `UsageError`."""
    found = {
        dict(partition.keys)["ingest"]: partition
        for partition in lake.partitions("faces")
        if dict(partition.keys)["archive"] == archive
    }
    if not found:
        raise UsageError(f"no faces of archive {archive} in {lake.url}: run `mien ingest` first, or pass --archive")
    ways = ", ".join(sorted(found))
    if ingest is None and len(found) > 1:
        raise UsageError(f"archive {archive} was ingested in several ways: choose one of {ways} with --ingest")
    partition = found.get(ingest or next(iter(found)))
    if partition is None:
        raise UsageError(f"archive {archive} has no faces under ingest={ingest}: choose one of {ways}")
    size = json.loads(lake.store.read(lake.config_key(partition)))["faces"]["align"]["size"]
    if size != crop.size:
        raise UsageError(
            f"the bundle takes crops of {crop.size} pixels and archive {archive} has {size}: ingest it with "
            f"--set faces.align.size={crop.size}, or score the videos themselves"
        )
    return Ingested(lake, partition)


class IngestedFaces:
    """A source of faces for the scoring of videos, as `ingest.source.FaceSource` is."""

    def __init__(self, ingested: Ingested) -> None:
        self._ingested = ingested
        self._parts: dict[str, tuple[Outcome, list[str]]] = {}
        lake, partition = ingested.lake, ingested.partition
        for record in ingested.committer().records():
            for outcome in record.videos:
                keys = [lake.part_key(partition, record.unit, n) for n in outcome.pieces]
                self._parts[outcome.video_id] = (outcome, keys)

    def prefetch(self, video: Video) -> None:
        """Nothing: parts are read where they lie."""

    @contextmanager
    def open(self, video: Video) -> Iterator[IngestedStream]:
        found = self._parts.get(video.video_id)
        if found is None or found[0].row["status"] == "failed":
            raise VideoError("missing", "the video has no ingested faces: run `mien ingest` on it first")
        if found[0].row["version"] != video.version:
            raise VideoError("changed", "the video changed since its faces were ingested: run `mien ingest` again")
        yield IngestedStream(self._ingested.lake, *found)


class IngestedStream:
    """One video's rows of `faces`, some frames at a time."""

    def __init__(self, lake: Lake, outcome: Outcome, keys: list[str]) -> None:
        self._lake, self._outcome, self._keys = lake, outcome, keys

    def __iter__(self) -> Iterator[FaceBatch]:
        rest = FACES.empty_table()
        for rows in self._rows():
            rest = pa.concat_tables([rest, rows])
            if len(rest) > FRAME_ROWS:
                # The last frame may go on in the next rows.
                whole = pc.index(rest["frame_index"], rest["frame_index"][-1]).as_py()
                if whole:
                    yield from_table(rest.slice(0, whole))
                    rest = rest.slice(whole)
        if len(rest):
            yield from_table(rest)

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
        """Columns of the `videos` table, as ingestion found them."""
        kept = (
            *("status", "reason", "message", "container", "codec", "width", "height", "fps", "rotation"),
            *("frames", "frames_with_face", "tracks", "duration_s", "decoder"),
        )
        return {name: self._outcome.row[name] for name in kept}
