"""The crops of a lake's faces as the encoder's input. A set of faces is read once, however many stages take it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common import config, scratch
from common.bundle.manifest import Preprocess
from common.errors import MienError, UsageError
from common.faces import decoded, decoded_crops
from common.lake.committed import committed
from common.lake.layout import Lake, Partition
from common.progress import Progress
from common.run.local import cpus
from common.store.base import Entry
from train.data import local_copy
from train.data.ahead import ahead
from train.data.local_copy import Records, Writer
from train.data.sources import Source
from train.models.preprocess import channels, prepare

_KEYS = ["frame_index", "time_s", "track_id", "box_x0", "box_x1"]
_COLUMNS = ["video_id", "uri", *_KEYS, "crop"]
_BATCH = 512  # crops decoded at once
_PREPARED = 8 << 30  # bytes; a set of faces whose prepared pictures take more is kept as JPEGs, prepared at each use
_FACES = "faces"  # folder of local copies
PREPARED, JPEG = "prepared", "jpeg"  # kinds of pictures in a local copy


@dataclass(frozen=True, eq=False)
class Crops:
    """The faces of one partition, in the order of its parts.

    keys: a row for each face; its `video` is a row of videos: video_id, uri, `last`, the number of its last frame, and
    `frames`, how many it has, those without a face included. digest: of what the parts hold.
    """

    keys: pd.DataFrame
    videos: pd.DataFrame
    digest: str
    preprocess: Preprocess
    records: Records  # on the local disk: of each face
    kind: str  # either the picture that `prepare` makes of its crop, or the crop's JPEG

    def images(self, faces: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(faces), C, s, s]. Any thread may call it. Raises MienError if the local copy is damaged."""
        found = [self.records[face] for face in faces.tolist()]
        if self.kind == JPEG:
            try:
                crops = np.stack([decoded(jpeg) for jpeg in found])
            except ValueError:
                raise self.records.damaged() from None
            return prepare(crops, self.preprocess)
        side = self.preprocess.size
        return np.frombuffer(bytearray().join(found), np.uint8).reshape(-1, channels(self.preprocess), side, side)


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

    def __init__(
        self, lake: Lake, preprocess: Preprocess, crop_size: int, cache: Path | None = None, prepared: int = _PREPARED
    ) -> None:
        """`cache`: folder for local copies of sets of faces, which later readers use; None: they end with the process.

        `prepared`: bytes that the prepared pictures of a set may take on the disk.
        """
        self.lake = lake
        self._preprocess, self._crop_size, self._room = preprocess, crop_size, prepared
        self._cache = (scratch.claim() if cache is None else cache) / _FACES
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
        content = {"faces": {part.key: part.version for part in parts}}
        made_by = {"crop": self._crop_size, "preprocess": self._preprocess.model_dump(), "prepared": self._room}
        name = f"{partition['archive']}-{config.digest({'lake': self.lake.url, **content, **made_by})}"
        found = local_copy.made_once(self._cache / name, lambda folder: self._copy(parts, folder, partition))
        return Crops(found.keys, found.videos, config.digest(content), self._preprocess, found.pictures, found.kind)

    def _copy(self, parts: list[Entry], folder: Path, partition: Partition) -> None:
        """Writes all faces of the parts to the folder. Each is decoded, so a damaged one is found before training."""
        rows = 0
        for part in parts:
            with self.lake.store.open_input(part.key) as file:
                rows += pq.ParquetFile(file).metadata.num_rows
        picture = channels(self._preprocess) * self._preprocess.size**2
        writer = Writer(folder, PREPARED if rows * picture <= self._room else JPEG)
        videos = _Videos()

        def taken(read: tuple[str, pa.RecordBatch]) -> tuple[pa.RecordBatch, pa.RecordBatch, list[bytes]]:
            part, batch = read
            faces = batch.filter(batch["crop"].is_valid())
            crops = decoded_crops(pa.Table.from_batches([faces]))
            if len(crops) and crops.shape[1:] != (self._crop_size, self._crop_size, 3):
                raise UsageError(
                    f"the crops in {part} are {crops.shape[2]} px wide, the recipe's crop.size is {self._crop_size}"
                )
            if writer.kind == JPEG:
                return batch, faces, faces["crop"].to_pylist()
            return batch, faces, [image.tobytes() for image in prepare(crops, self._preprocess)]

        with Progress(total=rows, unit="row", name="faces", rate_of="face") as progress:
            for batch, faces, pictures in ahead(taken, self._batches(parts), cpus()):
                videos.count(batch)
                if pictures:
                    numbers = {"video": pa.array(videos.numbers(faces["video_id"]))}
                    writer.add(pa.RecordBatch.from_pydict(numbers | {key: faces[key] for key in _KEYS}), pictures)
                progress.update(done=len(batch), frames=len(pictures))
        if not writer.faces:
            raise UsageError(
                f"no faces in {partition} of the lake {self.lake.url}: run `mien ingest` on the videos first"
            )
        writer.finish(videos.table())

    def _batches(self, parts: list[Entry]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """All rows of the parts, with the key of their part. Raises MienError for a part that has changed."""
        for part in parts:
            with self.lake.store.open_input(part.key) as file:
                for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=_COLUMNS):
                    yield part.key, batch
            now = self.lake.store.stat(part.key)
            if now is None or now.version != part.version:
                raise MienError(
                    f"the faces in {part.key} of the lake {self.lake.url} were replaced while they were read: start "
                    "again"
                )


class _Videos:
    """Videos in the order in which their rows come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []

    def count(self, batch: pa.RecordBatch) -> None:
        """Counts the frames of the videos. The rows of a video come in the order of their frames."""
        ids = batch["video_id"].dictionary_encode()
        codes, index = ids.indices.to_numpy(), batch["frame_index"].to_numpy()
        for code, video in enumerate(ids.dictionary.to_pylist()):
            rows = np.flatnonzero(codes == code)
            number = self._numbers.setdefault(video, len(self._rows))
            if number == len(self._rows):
                self._rows.append({"video_id": video, "uri": batch["uri"][rows[0]].as_py(), "last": -1, "frames": 0})
            row, frames = self._rows[number], index[rows]
            # Only the first of these frames can have been counted before.
            row["frames"] += len(np.unique(frames)) - int(frames[0] == row["last"])
            row["last"] = int(frames.max())

    def numbers(self, ids: pa.Array) -> NDArray[np.int32]:
        """int32 [rows]: the number of each row's video, of those that were counted."""
        found = ids.dictionary_encode()
        known = [self._numbers[video] for video in found.dictionary.to_pylist()]
        return np.array(known, np.int32)[found.indices.to_numpy()]

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self._rows)
