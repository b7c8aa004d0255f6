"""From a video's frames to its faces: in each batch of frames, faces are detected, tracked, rated and aligned."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config import Config
from common.crops import Crop
from common.faces import JPEG_QUALITY, FaceBatch
from ingest.align import ALIGN_RESULTS, Aligner
from ingest.cuts import CutFinder
from ingest.decode.reader import DECODE_RESULTS, DecodeOptions, FrameBatch, VideoReader
from ingest.detect.detector import Faces, largest
from ingest.detect.options import DetectorOptions, build
from ingest.detect.registry import DETECTORS
from ingest.detect.sparse import BETWEEN_RESULTS, detected
from ingest.looks import looks
from ingest.quality import QUALITY_RESULTS, QualityOptions, sharpness, status, yaw
from ingest.track import NO_TRACK, TRACK_RESULTS, Tracker, TrackerOptions

SEARCHED_FPS, USUAL_FPS = 6.0, 30.0  # of frames that are searched if `every` is "auto"; of a video that says none
PIXEL_CENTRE = 0.5  # a detector counts pixels from the frame's edge, the warp from the centre of the first one


class FacesOptions(Config):
    """From a video to its faces."""

    decode: DecodeOptions = DecodeOptions()
    detector: DetectorOptions = DetectorOptions()
    tracker: TrackerOptions = TrackerOptions()
    quality: QualityOptions = QualityOptions()
    align: Crop = Crop()

    def identity(self) -> dict[str, Any]:
        """What decides which faces are found: options without limits and sizes of batches, weights by their digest, and
        the version of each stage's results.

        Raises `UsageError`, before any worker would, if the detector cannot be built.
        """
        detector = DETECTORS[self.detector.name]
        if not detector.has_weights:
            build(self.detector)
        found = self.model_dump(mode="json")
        found["decode"] = self.decode.identity()
        found["detector"]["weights"] = None if self.detector.weights is None else _sha256(self.detector.weights)
        found["results"] = {
            "decode": DECODE_RESULTS,
            "detect": detector.results,
            "between": BETWEEN_RESULTS,
            "track": TRACK_RESULTS,
            "quality": QUALITY_RESULTS,
            "align": ALIGN_RESULTS,
        }
        return found


class StoredFaces(Config):
    """How faces are stored."""

    jpeg_quality: int = Field(JPEG_QUALITY, ge=1, le=100, description="quality of the stored crops")
    frames_per_part: int = Field(20_000, ge=1, description="frames after which a long video's faces begin a new file")


class IngestConfig(StoredFaces):
    """What decides the rows of `faces`; the digest of its `identity` names their partition."""

    faces: FacesOptions = FacesOptions()

    def identity(self) -> dict[str, Any]:
        """As `FacesOptions.identity`, with what decides how the faces are stored."""
        return self.model_dump(mode="json") | {"faces": self.faces.identity()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Detected:
    """A batch of frames before its faces are tracked: those of each frame, what each looks like, and all in one."""

    found: list[Faces]
    looks: list[NDArray[np.float32]]
    faces: FaceBatch  # in the order of detection; nobody has a track


class FaceFinder:
    """Finds the faces of videos, one video after the other; the detector is built once."""

    def __init__(self, options: FacesOptions) -> None:
        import scipy.optimize  # noqa: F401  # the tracker's, imported before workers are forked

        self.options = options
        self.detector = build(options.detector)
        self.aligner = Aligner(options.align)

    def find(self, reader: VideoReader) -> Iterator[FaceBatch]:
        """Yields one batch of faces per batch of frames, even if it has no face.

        The faces of a frame depend on the frames before it and, by the cuts, on the few after it that a `CutFinder`
        looks ahead, but not on the size of batches. Batches wait for these few frames, as faces and crops.
        """
        tracker, cuts = Tracker(self.options.tracker), CutFinder()
        waiting: deque[_Detected] = deque()
        known: list[bool] = []  # whether a shot begins, of the frames that wait
        for frames, found in detected(reader, self.detector, self._every(reader)):
            waiting.append(self._detected(frames, found, reader))
            known += cuts.see(frames.rgb)
            while waiting and len(waiting[0].faces) <= len(known):
                yield _tracked(waiting.popleft(), known, tracker)
        known += cuts.end()
        while waiting:
            yield _tracked(waiting.popleft(), known, tracker)

    def _every(self, reader: VideoReader) -> int:
        """One frame in how many is searched."""
        every = self.options.detector.every
        if every != "auto":
            return every
        return max(1, round((reader.facts.fps or USUAL_FPS) / self.options.decode.every / SEARCHED_FPS))

    def crops(self, rgb: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The crops, uint8 [K, S, S, 3], of faces with these landmarks, float32 [K, 5, 2], in pixels of the frame."""
        return self.aligner(rgb, landmarks - PIXEL_CENTRE)

    def _detected(self, frames: FrameBatch, found: list[Faces], reader: VideoReader) -> _Detected:
        size = frames.rgb.shape[1:3]
        scale = np.array([reader.facts.width / size[1], reader.facts.height / size[0]], np.float32)
        found = [largest(faces, self.options.detector.max_faces) for faces in found]
        crops = np.concatenate([self.crops(rgb, faces.landmarks) for rgb, faces in zip(frames.rgb, found, strict=True)])
        landmarks = np.concatenate([faces.landmarks for faces in found])
        statuses = [
            status(faces, self.aligner.degenerate(faces.landmarks), size, self.options.quality) for faces in found
        ]
        faces = FaceBatch(
            frame_index=frames.frame_index,
            time_s=frames.time_s,
            duration_s=frames.duration_s,
            row=np.repeat(np.arange(len(frames), dtype=np.int32), [len(faces) for faces in found]),
            track_id=np.full(len(crops), NO_TRACK, np.int32),
            box=np.concatenate([faces.boxes for faces in found]) * np.tile(scale, 2),
            landmarks=landmarks * scale,
            score=np.concatenate([faces.scores for faces in found]),
            yaw=yaw(landmarks),
            sharpness=sharpness(crops),
            status=np.concatenate(statuses),
            crops=crops,
        )
        return _Detected(found, [looks(rgb, faces.boxes) for rgb, faces in zip(frames.rgb, found, strict=True)], faces)


def _tracked(batch: _Detected, cuts: list[bool], tracker: Tracker) -> FaceBatch:
    """The faces that have a track, in order of frame and track. Takes the batch's frames from the front of `cuts`."""
    each = zip(batch.faces.time_s.tolist(), batch.found, batch.looks, cuts, strict=False)
    ids = [tracker.update(time_s, faces, looks_, cut=cut) for time_s, faces, looks_, cut in each]
    del cuts[: len(batch.faces)]
    faces = replace(batch.faces, track_id=np.concatenate(ids))
    order = np.lexsort((faces.track_id, faces.row))
    return faces.chosen(order[faces.track_id[order] != NO_TRACK])
