"""`mien ingest --shipped`: the faces that a dataset ships, into the `faces` table; nothing is detected or aligned.

A picture is a video of one frame, and a folder of pictures is a video. Plan, parts and ledger are those of every job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from common import config
from common.cli import JobOptions
from common.commit.staging import Destination
from common.commit.units import LISTING, Video, video_id
from common.crops import TEMPLATE_SIDE
from common.errors import UsageError, VideoError
from common.faces import FaceBatch, to_faces
from common.lake.layout import SHIPPED, Lake, Partition, check_archive_name
from common.lake.schema import FACES, LANDMARKS
from common.run import runner
from common.run.summary import Summary
from common.store.base import StoreSettings
from ingest.datasets.crops import Listed
from ingest.datasets.dataset import Tally
from ingest.faces import StoredFaces
from ingest.labelling import opened
from ingest.quality import sharpness

SHIPPED_RESULTS = 1  # version of the crops; docs/decisions.md says when to raise it
FPS = 30  # of folders of frames, which do not say it
BATCH_FRAMES = 64
LISTED = 10_000  # videos of a batch of the listing

T = TypeVar("T")


class ShippedConfig(StoredFaces):
    """What decides the rows of `faces` that come from a dataset's crops."""

    size: int = Field(TEMPLATE_SIDE, ge=8, le=1024, description="side of the stored crop, in pixels")

    def identity(self) -> dict[str, Any]:
        """What the partition is named after."""
        described = self.model_dump(mode="json")
        return {"shipped": {"size": described.pop("size"), "results": SHIPPED_RESULTS}} | described


@dataclass(frozen=True)
class ShippedProcessor:
    """Makes a worker's processor. Picklable."""

    dataset: str
    root: Path
    config: ShippedConfig

    def prepare(self) -> None:
        opened(self.dataset, self.root)  # imports the dataset's module

    def __call__(self, settings: StoreSettings) -> _Processor:
        return _Processor(self)


class _Processor:
    def __init__(self, recipe: ShippedProcessor) -> None:
        cv2.setNumThreads(1)  # a worker has one CPU
        self.config = recipe.config
        self.crops = opened(recipe.dataset, recipe.root).crops(recipe.root)

    def prefetch(self, video: Video) -> None:
        """Does nothing: the pictures are local."""

    def process(self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]) -> dict[str, Any]:
        self._check_unchanged(video)
        first, frames, found = (0, 0), 0, 0
        try:
            for some in _some(self.crops.frames(video.uri), BATCH_FRAMES):
                sizes = [crop.shape[:2] for crop in some if crop is not None]
                first = first if found or not sizes else sizes[0]
                write(to_faces(self._batch(frames, some), video, quality=self.config.jpeg_quality))
                frames, found = frames + len(some), found + len(sizes)
                beat(len(some))
        except UsageError as error:
            raise VideoError("decode_error", str(error)) from None
        self._check_unchanged(video)
        if not frames:
            raise VideoError("missing", "the folder holds no picture")
        height, width = first
        return dict.fromkeys(("reason", "message", "container", "codec", "fps")) | {
            "status": "ok",
            "width": width,
            "height": height,
            "rotation": 0,
            "frames": frames,
            "frames_with_face": found,
            "tracks": int(found > 0),
            "duration_s": frames / FPS,
            "decoder": "opencv",
        }

    def _check_unchanged(self, video: Video) -> None:
        try:
            version = self.crops.version(video.uri)
        except OSError:
            raise VideoError("missing", "the picture or folder is not there any more") from None
        if version != video.version:
            raise VideoError("changed", "the pictures are not those that were planned any more")

    def _batch(self, start: int, pictures: list[NDArray[np.uint8] | None]) -> FaceBatch:
        index = np.arange(start, start + len(pictures), dtype=np.int32)
        row = np.array([number for number, picture in enumerate(pictures) if picture is not None], np.int32)
        found = [picture for picture in pictures if picture is not None]
        box = np.array([(0, 0, picture.shape[1], picture.shape[0]) for picture in found], np.float32).reshape(-1, 4)
        crops = self._resized(found)
        return FaceBatch(
            frame_index=index,
            time_s=index / FPS,
            duration_s=np.full(len(pictures), 1 / FPS),
            row=row,
            track_id=np.zeros(len(row), np.int32),
            box=box,
            landmarks=np.full((len(row), len(LANDMARKS), 2), np.nan, np.float32),
            score=np.full(len(row), np.nan, np.float32),
            yaw=np.full(len(row), np.nan, np.float32),
            sharpness=sharpness(crops),
            status=np.full(len(row), "ok"),
            crops=crops,
        )

    def _resized(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        side = self.config.size
        result = np.empty((len(crops), side, side, 3), np.uint8)
        for crop, place in zip(crops, result, strict=True):
            smooth = cv2.INTER_AREA if max(crop.shape[:2]) > side else cv2.INTER_LINEAR
            place[:] = cv2.resize(crop, (side, side), interpolation=smooth)
        return result


def listing(dataset: str, root: Path) -> Iterator[pa.RecordBatch]:
    """The labelled pictures, clips and tracks whose faces the dataset ships, schema `LISTING`.

    Raises UsageError, before anything is planned, if it cannot be read or ships none.
    """
    source = opened(dataset, root)
    crops = source.crops(root)
    names = [name for table in source.read(root, Tally()) for name in pc.unique(table["video"]).to_pylist()]
    found = (listed for listed in map(crops.listed, names) if listed)
    first = next(found, None)
    if first is None:
        raise UsageError(
            f"no faces of {source.title} are in {root}: `mien label {dataset} --describe` says where they belong"
        )
    return _batches(chain([first], found))


def _batches(found: Iterator[Listed]) -> Iterator[pa.RecordBatch]:
    for some in _some(found, LISTED):
        uris, versions, sizes = zip(*some, strict=True)
        columns = [[video_id(uri) for uri in uris], uris, versions, sizes]
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], schema=LISTING
        )


def _some(items: Iterator[T], count: int) -> Iterator[list[T]]:
    while some := list(islice(items, count)):
        yield some


def run(dataset: str, root: Path, lake: Lake, config_: ShippedConfig, options: JobOptions) -> Summary:
    """Puts the faces that the dataset below `root` ships into the lake. Raises `MienError`."""
    described = config_.identity()
    digest = f"{SHIPPED}{config.digest(described)}"
    data = Partition("faces", (("ingest", digest), ("archive", check_archive_name(options.archive))))
    destination = Destination(lake, data, data.videos, FACES, described, config_.frames_per_part)
    return runner.run(destination, listing(dataset, root), ShippedProcessor(dataset, root.resolve(), config_), options)
