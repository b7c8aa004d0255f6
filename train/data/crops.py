"""The crops of a lake's faces as the encoder's input. A set of faces is read once, however many stages take it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common import config
from common.bundle.manifest import Preprocess
from common.errors import MienError, UsageError
from common.faces import decoded_crops
from common.lake.committed import committed
from common.lake.layout import Lake, Partition
from train.data.sources import Source
from train.models.preprocess import channels, prepare

_KEYS = ["video_id", "uri", "frame_index", "time_s", "track_id", "box_x0", "box_x1"]
_BATCH = 512  # crops decoded at once
_PREPARED = 8 << 30  # bytes of prepared pictures that are kept; the crops of larger sets are prepared at each use


@dataclass(frozen=True, eq=False)
class Crops:
    """The faces of one partition, in the order of its parts.

    keys: a row for each face. frames: of each video, by URI, the number of its last frame and how many frames it has,
    those without a face included. digest: of what the parts hold.
    """

    keys: pd.DataFrame
    frames: dict[str, tuple[int, int]]
    digest: str
    preprocess: Preprocess
    jpegs: list[bytes] | None  # either these,
    pictures: NDArray[np.uint8] | None  # or what `prepare` makes of them

    def images(self, faces: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(faces), C, s, s]."""
        if self.pictures is not None:
            return self.pictures[faces]
        assert self.jpegs is not None
        chosen = self.keys.iloc[faces][["frame_index", "uri"]].assign(crop=[self.jpegs[face] for face in faces])
        return prepare(decoded_crops(pa.Table.from_pandas(chosen, preserve_index=False)), self.preprocess)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Chosen faces of one or several sets, one after the other. Each part: a set, and int64 [k] which of its faces."""

    parts: tuple[tuple[Crops, NDArray[np.int64]], ...]

    def __len__(self) -> int:
        return sum(len(faces) for _, faces in self.parts)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(rows), C, s, s]; `rows` count through all parts."""
        ends = np.cumsum([len(faces) for _, faces in self.parts])
        part = np.searchsorted(ends, rows, side="right")
        out: NDArray[np.uint8] | None = None
        for number in np.unique(part):
            crops, faces = self.parts[number]
            here = part == number
            found = crops.images(faces[rows[here] - (ends[number] - len(faces))])
            if out is None:
                out = np.empty((len(rows), *found.shape[1:]), np.uint8)
            out[here] = found
        if out is None:
            raise ValueError("no picture is asked for")
        return out

    @property
    def digest(self) -> str:
        return config.digest({"parts": [[crops.digest, content(faces)] for crops, faces in self.parts]})


def content(*arrays: NDArray) -> str:
    """The SHA-256 of the arrays' values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class CropReader:
    """Reads the crops of a lake for one kind of input."""

    def __init__(self, lake: Lake, preprocess: Preprocess, crop_size: int, prepared: int = _PREPARED) -> None:
        """`prepared`: bytes of prepared pictures that all sets of faces may keep."""
        self.lake = lake
        self._preprocess, self._crop_size, self._room = preprocess, crop_size, prepared
        self._read: dict[Partition, Crops] = {}

    def partition(self, source: Source, where: str) -> Partition:
        """The set of faces that `source` chooses, the section `where` of the recipe. UsageError unless it is one."""

        def wanted(partition: Partition) -> bool:
            kind = "shipped" if partition.shipped else "ingested"
            asked = ((source.archive, partition["archive"]), (source.ingest, partition["ingest"]), (source.faces, kind))
            return all(wish in (None, found) for wish, found in asked)

        every = self.lake.partitions("faces")
        found = [partition for partition in every if wanted(partition)]
        if len(found) == 1:
            return found[0]
        if not every:
            raise UsageError(f"the lake {self.lake.url} has no faces: run `mien ingest` on the videos first")
        have = "; ".join(", ".join(f"{key}={value}" for key, value in partition.keys) for partition in every)
        raise UsageError(
            f"{where}.archive, {where}.faces and {where}.ingest must name one set of faces of the lake "
            f"{self.lake.url}, it has {have}"
        )

    def crops(self, partition: Partition) -> Crops:
        """All committed faces of the partition. Raises UsageError if there are none, MienError for a damaged crop."""
        if partition not in self._read:
            self._read[partition] = self._all(partition)
        return self._read[partition]

    def _all(self, partition: Partition) -> Crops:
        parts = committed(self.lake, "faces", partition)
        rows = 0
        for part in parts:
            with self.lake.store.open_input(part.key) as file:
                rows += pq.ParquetFile(file).metadata.num_rows
        shape = (rows, channels(self._preprocess), self._preprocess.size, self._preprocess.size)
        kept = math.prod(shape) <= self._room
        # Rows without a face leave places at the end unused. Memory that is never written is not allocated.
        pictures = np.empty(shape if kept else 0, np.uint8)
        jpegs: list[bytes] = []
        tables, filled = [], 0
        frames: dict[str, tuple[int, int]] = {}
        for part in parts:
            for batch, crops in self._batches(part.key, frames):
                if filled + len(crops) > rows:
                    raise MienError(
                        f"the faces in {part.key} of the lake {self.lake.url} were replaced while they were read: "
                        "start again"
                    )
                if kept:
                    pictures[filled : filled + len(crops)] = prepare(crops, self._preprocess)
                else:
                    jpegs += batch["crop"].to_pylist()
                filled += len(crops)
                tables.append(batch.select(_KEYS).to_pandas())
        if not filled:
            raise UsageError(
                f"no faces in {partition} of the lake {self.lake.url}: run `mien ingest` on the videos first"
            )
        self._room -= math.prod(shape) if kept else 0
        return Crops(
            keys=pd.concat(tables, ignore_index=True),
            frames=frames,
            digest=config.digest({"faces": {part.key: part.version for part in parts}}),
            preprocess=self._preprocess,
            jpegs=None if kept else jpegs,
            pictures=pictures[:filled] if kept else None,
        )

    def _batches(
        self, part: str, frames: dict[str, tuple[int, int]]
    ) -> Iterator[tuple[pa.RecordBatch, NDArray[np.uint8]]]:
        """The faces of a part: rows and crops, uint8 [B, S, S, 3]. Counts all frames of each video in `frames`.

        Every crop is decoded, so that a damaged one is found before anything is trained.
        """
        with self.lake.store.open_input(part) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[*_KEYS, "crop"]):
                _count(batch, frames)
                batch = batch.filter(batch["crop"].is_valid())
                if not len(batch):
                    continue
                crops = decoded_crops(pa.Table.from_batches([batch]))
                size = self._crop_size
                if crops.shape[1:] != (size, size, 3):
                    raise UsageError(
                        f"the crops in {part} are {crops.shape[2]} px wide, the recipe's crop.size is {size}"
                    )
                yield batch, crops


def _count(batch: pa.RecordBatch, frames: dict[str, tuple[int, int]]) -> None:
    rows = batch.select(["uri", "frame_index"]).to_pandas()
    for uri, index in rows.groupby("uri", observed=True)["frame_index"]:
        last, count = frames.get(str(uri), (-1, 0))
        # The rows are in the order of the frames, so only the first frame can have been counted before.
        frames[str(uri)] = int(index.max()), count + index.nunique() - (index.iloc[0] == last)
