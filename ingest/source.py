"""From a planned video to its faces, and to its columns of the `videos` table: fetch, decode, find faces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from common import log
from common.commit.units import Video
from common.faces import FaceBatch
from common.store.base import StoreSettings
from ingest.decode.reader import Beat, VideoReader, open_video
from ingest.faces import FaceFinder, FacesOptions
from ingest.fetch import Fetcher


class FaceStream:
    """The faces of one video. Iterate once; then call `account`."""

    def __init__(self, batches: Iterator[FaceBatch], reader: VideoReader) -> None:
        self._batches = batches
        self._reader = reader
        self._frames_with_face = 0
        self._tracks = 0

    def __iter__(self) -> Iterator[FaceBatch]:
        for batch in self._batches:
            self._frames_with_face += len(set(batch.row.tolist()))
            self._tracks = max(self._tracks, int(batch.track_id.max(initial=-1)) + 1)
            yield batch

    def account(self) -> dict[str, Any]:
        """The columns of the `videos` table that decoding and detection fill."""
        facts, ending = self._reader.facts, self._reader.ending
        assert ending is not None, "the stream was not read to its end"
        return {
            "status": ending.status,
            "reason": ending.reason,
            "message": ending.message,
            "container": facts.container,
            "codec": facts.codec,
            "width": facts.width,
            "height": facts.height,
            "fps": facts.fps,
            "rotation": facts.rotation,
            "frames": ending.frames,
            "frames_with_face": self._frames_with_face,
            "tracks": self._tracks,
            "duration_s": ending.duration_s,
            "decoder": self._reader.decoder,
        }


class FaceSource:
    """Opens videos, one after the other; the detector is built once. Raises `VideoError` for a video's own faults."""

    def __init__(self, options: FacesOptions, settings: StoreSettings | None = None) -> None:
        cv2.setNumThreads(1)  # a worker has one CPU; torch gets its number of threads from the environment
        self._finder = FaceFinder(options)
        self._fetcher = Fetcher(Path(tempfile.gettempdir()), settings)

    def prefetch(self, video: Video) -> None:
        """Starts to download the video that comes next."""
        self._fetcher.begin(video)

    @contextmanager
    def open(self, video: Video, beat: Beat = lambda frames: None) -> Iterator[FaceStream]:
        """The video's faces. `beat(0)` is called from time to time while it is fetched and while frames are skipped."""
        with (
            self._fetcher.fetch(video, beat) as path,
            open_video(path, self._finder.options.decode, beat=beat) as reader,
        ):
            yield FaceStream(self._finder.find(reader), reader)
            if reader.fallback is not None:
                log.get("decode").warning("decord failed, PyAV took over", uri=video.uri, because=reader.fallback)
