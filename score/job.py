"""`mien score`: from an archive's videos, or its ingested faces, to the `scores` table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from common import config, scratch
from common.bundle.folder import Bundle
from common.bundle.manifest import BundleManifest
from common.cli import JobOptions
from common.commit.staging import Destination
from common.commit.units import Video
from common.faces import FaceBatch
from common.lake.layout import Lake, Partition
from common.lake.schema import SCORES
from common.run import runner
from common.run.summary import Summary
from common.store.base import StoreSettings
from score.config import ScoreConfig
from score.sources.ingested import Ingested, IngestedFaces
from score.stream import ScoreOptions, scores
from train.models.registry import check_kinds, import_networks


@contextmanager
def opened(bundle: str | None, settings: StoreSettings | None = None) -> Iterator[Bundle]:
    """The bundle in a folder or under s3://...; if None, the bundle fer2013, in a temporary folder for the block.

    Each process makes that folder itself: every node has the package's weights, and there is no cache to be stale.
    """
    if bundle is not None:
        yield Bundle.open(bundle, settings)
        return
    from train.models.published import fer2013

    with scratch.folder() as folder:
        yield fer2013.published().write(Path(folder) / "fer2013")


class Stream(Protocol):
    """A video's faces; after them, its columns of the `videos` table."""

    def __iter__(self) -> Iterator[FaceBatch]: ...
    def account(self) -> dict[str, Any]: ...


class Source(Protocol):
    """Where faces come from: videos (`ingest.source`) or the lake (`score.sources.ingested`)."""

    def prefetch(self, video: Video) -> None: ...
    def open(self, video: Video, beat: Callable[[int], None]) -> AbstractContextManager[Stream]: ...


@dataclass(frozen=True)
class ScoreProcessor:
    """Makes a worker's processor. Picklable: the models are loaded in the worker."""

    bundle: str | None
    manifest: BundleManifest
    config: ScoreConfig
    ingested: Ingested | None

    def prepare(self) -> None:
        from ingest.source import FaceSource
        from train.models import scoring  # noqa: F401

        import_networks(self.manifest)
        if self.ingested is None:
            FaceSource(self.config.faces)  # built once here, so that all it needs is imported

    def __call__(self, settings: StoreSettings) -> _Processor:
        return _Processor(self, settings)


class _Processor:
    def __init__(self, recipe: ScoreProcessor, settings: StoreSettings) -> None:
        from ingest.source import FaceSource
        from train.models.scoring import load

        with opened(recipe.bundle, settings) as bundle:
            self.model = load(bundle, dtype=recipe.config.dtype)
        self.source: Source = (
            IngestedFaces(recipe.ingested) if recipe.ingested else FaceSource(recipe.config.faces, settings)
        )
        self.options = ScoreOptions(recipe.config.batch_size, recipe.config.window_batch, smooth=recipe.config.smooth)

    def prefetch(self, video: Video) -> None:
        self.source.prefetch(video)

    def process(self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]) -> dict[str, Any]:
        with self.source.open(video, beat) as stream:
            for table in scores(_beating(stream, beat), self.model, video, self.options):
                write(table)
        return stream.account()


def _beating(stream: Stream, beat: Callable[[int], None]) -> Iterator[FaceBatch]:
    for batch in stream:
        yield batch
        beat(len(batch))


def destination(
    lake: Lake, archive_name: str, bundle: Bundle, config_: ScoreConfig, ingested: Ingested | None
) -> Destination:
    """Where `mien score` writes the rows of `archive_name` with this bundle and configuration.

    Raises UsageError for a bundle with networks of an unknown kind.
    """
    check_kinds(bundle)
    manifest = bundle.manifest
    described = config_.identity(manifest.id, ingested.ingest if ingested else None)
    shown = [config_.smooth.replace(":", "")] if config_.smooth else []
    model = "-".join([manifest.name, manifest.id, *shown, config.digest(described)])
    data = Partition("scores", (("model", model), ("archive", archive_name)))
    return Destination(lake=lake, data=data, videos=data.videos, schema=SCORES, config=described)


def run(
    destination: Destination, listing: Iterable[pa.RecordBatch], processor: ScoreProcessor, options: JobOptions
) -> Summary:
    """Scores the listed videos. Raises `MienError`."""
    return runner.run(destination, listing, processor, options)
