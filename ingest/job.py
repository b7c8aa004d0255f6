"""`mien ingest`: from an archive's videos to the `faces` table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from common import config
from common.cli import JobOptions
from common.commit.staging import Destination
from common.commit.units import Video
from common.faces import to_faces
from common.lake import schema
from common.lake.layout import Lake, Partition
from common.run import runner
from common.run.summary import Summary
from common.store.base import StoreSettings
from ingest import archive
from ingest.faces import IngestConfig
from ingest.source import FaceSource


@dataclass(frozen=True)
class FacesProcessor:
    """Makes a worker's processor. Picklable: the detector is built in the worker."""

    config: IngestConfig

    def prepare(self) -> None:
        FaceSource(self.config.faces)  # built once here, so that all it needs is imported

    def __call__(self, settings: StoreSettings) -> _Processor:
        return _Processor(self.config, settings)


class _Processor:
    def __init__(self, config: IngestConfig, settings: StoreSettings) -> None:
        self.config = config
        self.source = FaceSource(config.faces, settings)

    def prefetch(self, video: Video) -> None:
        self.source.prefetch(video)

    def process(self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]) -> dict[str, Any]:
        with self.source.open(video, beat) as stream:
            for batch in stream:
                write(to_faces(batch, video, quality=self.config.jpeg_quality))
                beat(len(batch.frame_index))
        return stream.account()


def destination(lake: Lake, archive_name: str, config_: IngestConfig) -> Destination:
    """Where `mien ingest` writes the rows of `archive_name` with this configuration."""
    described = config_.identity()
    digest = f"i-{config.digest(described)}"
    data = Partition("faces", (("ingest", digest), ("archive", archive_name)))
    return Destination(
        lake=lake,
        data=data,
        videos=data.videos,
        schema=schema.FACES,
        config=described,
        frames_per_part=config_.frames_per_part,
    )


def run(sources: Sequence[str], lake: Lake, archive_name: str, config_: IngestConfig, options: JobOptions) -> Summary:
    """Ingests the videos that `sources` name. Raises `MienError`."""
    return runner.run(
        destination(lake, archive_name, config_),
        archive.listing(sources, StoreSettings.from_env()),
        FacesProcessor(config_),
        options,
    )
