"""From frames to faces: whole clips, frames without a face, source pixels, and nothing that depends on the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from skimage import data

from benchmarks.support import clips as synthetic
from common.commit.units import Video
from common.faces import FaceBatch, to_faces
from common.lake.schema import LANDMARK_COLUMNS
from ingest.decode.messages import VideoFacts
from ingest.decode.reader import DecodeOptions, FrameBatch, open_video
from ingest.detect import registry
from ingest.detect.detector import Faces
from ingest.faces import FaceFinder, FacesOptions


def find(path: Path, finder: FaceFinder, **decode: int) -> FaceBatch:
    with open_video(path, DecodeOptions.model_validate(decode)) as reader:
        return joined(list(finder.find(reader)))


def joined(batches: list[FaceBatch]) -> FaceBatch:
    """The batches as one."""
    start = np.cumsum([0, *map(len, batches)])[:-1]
    parts = {field.name: [getattr(batch, field.name) for batch in batches] for field in fields(FaceBatch)}
    parts["row"] = [row + first for row, first in zip(parts["row"], start, strict=True)]
    return FaceBatch(**{name: np.concatenate(values) for name, values in parts.items()})


def check_equal(a: FaceBatch, b: FaceBatch) -> None:
    for field in fields(FaceBatch):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(FacesOptions())


@pytest.mark.slow
def test_one_face_in_every_frame_is_one_track(clips: Path, finder: FaceFinder) -> None:
    faces = find(clips / "single_face.mp4", finder)
    assert faces.frame_index.tolist() == list(range(72))
    assert faces.row.tolist() == list(range(72))
    assert set(faces.track_id.tolist()) == {0}
    assert set(faces.status.tolist()) == {"ok"}
    assert faces.crops.shape == (72, 112, 112, 3)


@pytest.mark.slow
@pytest.mark.soak
def test_frames_after_the_face_has_gone_are_carried_without_one(clips: Path, finder: FaceFinder) -> None:
    faces = find(clips / "face_noface.mov", finder)
    assert faces.frame_index.tolist() == list(range(169))
    assert faces.row.tolist() == list(range(72))  # the shot of the face; two thirds of the time, frames are few in it
    assert set(faces.track_id.tolist()) == {0}


@pytest.mark.slow
@pytest.mark.soak
def test_hands_over_the_face_do_not_break_its_track(clips: Path, finder: FaceFinder) -> None:
    faces = find(clips / "WolfgangLanger_Pexels.mp4", finder, every=3)
    assert set(faces.track_id.tolist()) == {0}
    assert len(set(faces.row.tolist())) > 150  # of 158 frames


@pytest.mark.slow
def test_boxes_are_in_source_pixels_and_nothing_depends_on_the_batches(clips: Path, finder: FaceFinder) -> None:
    path = clips / "carphone_pristine.mp4"  # 176x144, pixels wider than high
    faces = find(path, finder)
    check_equal(find(path, finder, batch_frames=7), faces)
    assert set(faces.track_id.tolist()) == {0}
    with open_video(path) as reader:
        batch = next(iter(reader))
        assert batch.rgb.shape[1:3] != (reader.facts.height, reader.facts.width)
        source = cv2.resize(batch.rgb[0], (reader.facts.width, reader.facts.height), interpolation=cv2.INTER_AREA)
        back = batch.rgb.shape[2] / reader.facts.width, batch.rgb.shape[1] / reader.facts.height
        direct = finder.detector(batch.rgb[:1])[0]
    np.testing.assert_allclose(faces.box[0] * np.tile(back, 2), direct.boxes[0], rtol=1e-5)
    np.testing.assert_allclose(faces.landmarks[0] * back, direct.landmarks[0], rtol=1e-5)
    eyes = faces.landmarks[0, :2].round().astype(int)
    around = source[eyes[:, 1].min() : eyes[:, 1].max() + 1, eyes[0, 0] : eyes[1, 0]]
    cheek = faces.landmarks[0, 2].round().astype(int) + np.array([8, 0])
    assert around.min() < source[cheek[1], cheek[0]].min()  # pupils are darker than a cheek


@dataclass
class Frames:
    """A video in memory, given in batches of the sizes listed; shows each batch once, as the decoder does."""

    rgb: np.ndarray
    sizes: list[int]
    facts: VideoFacts

    def __iter__(self) -> Iterator[FrameBatch]:
        shared = np.zeros_like(self.rgb)
        start = 0
        while start < len(self.rgb):
            count = min(self.sizes.pop(0) if self.sizes else 1, len(self.rgb) - start)
            index = np.arange(start, start + count, dtype=np.int32)
            shared[:count] = self.rgb[index]
            yield FrameBatch(shared[:count], index, index / 25.0, np.full(count, 1 / 25))
            shared[:] = 0
            start += count


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """An astronaut who moves, jumps away and back, and a cut to another picture and back."""
    picture = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    other = np.ascontiguousarray(data.coffee()[:256, :256])
    shifted = [np.roll(picture, (k, 3 * k), (0, 1)) for k in range(5)]
    return np.stack([*shifted, np.roll(picture, 128, 0), shifted[4], shifted[3], *[other] * 5, *shifted[:3]])


@settings(max_examples=5, deadline=None)
@given(sizes=st.lists(st.integers(1, 16), max_size=16))
def test_faces_do_not_depend_on_how_frames_are_batched(
    sizes: list[int], moving: np.ndarray, finder: FaceFinder
) -> None:
    facts = VideoFacts("mp4", "h264", 512, 256, 25.0, 0)
    alone = joined(list(finder.find(Frames(moving, [], facts))))
    check_equal(joined(list(finder.find(Frames(moving, list(sizes), facts)))), alone)
    assert alone.frame_index.tolist() == list(range(16))
    assert alone.row.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 13, 14, 15]
    assert alone.track_id.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 2, 2]  # elsewhere, back, and after a cut


class Scripted:
    """Gives the faces written down for each frame, in order."""

    def __init__(self, frames: list[Faces]) -> None:
        self.frames = iter(frames)

    def __call__(self, rgb: np.ndarray) -> list[Faces]:
        return [next(self.frames) for _ in rgb]


def test_rows_are_in_order_of_frame_and_track_and_unsure_faces_without_a_track_are_left_out(
    finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faces(*given: tuple[float, float]) -> Faces:
        corner = np.array([[x, 20] for x, _ in given], np.float32).reshape(-1, 2)
        shape = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float32) / 2
        scores = np.array([score for _, score in given], np.float32)
        return Faces(np.concatenate([corner, corner + 56], 1), corner[:, None] + shape, scores)

    script = [faces((20, 0.99)), faces(), faces((150, 0.98), (20, 0.95)), faces((21, 0.8), (150, 0.8), (90, 0.7))]
    monkeypatch.setattr(finder, "detector", Scripted(script))
    facts = VideoFacts("mp4", "h264", 256, 64, 25.0, 0)
    batch = joined(list(finder.find(Frames(np.zeros((4, 128, 256, 3), np.uint8), [3], facts))))
    assert batch.row.tolist() == [0, 2, 2, 3, 3]
    assert batch.track_id.tolist() == [0, 0, 1, 0, 1]
    assert batch.box[:, 0].tolist() == [20, 20, 150, 21, 150]
    assert batch.box[0].tolist() == [20, 10, 76, 38]  # half as high in the source
    assert batch.landmarks[0, 0].tolist() == [39, 23]
    assert batch.status.tolist() == ["ok", "ok", "ok", "low_quality", "low_quality"]
    assert len(batch.crops) == 5


def test_the_largest_faces_of_each_frame_are_kept_if_the_options_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = FaceFinder(FacesOptions.model_validate({"detector": {"max_faces": 1}}))
    boxes = np.array([[10, 10, 60, 60], [100, 10, 190, 100]], np.float32)
    shape = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float32) / 2
    found = Faces(boxes, boxes[:, None, :2] + shape, np.array([0.99, 0.95], np.float32))
    monkeypatch.setattr(finder, "detector", Scripted([found, found[:1]]))
    frames = Frames(np.zeros((2, 128, 256, 3), np.uint8), [2], VideoFacts("mp4", "h264", 256, 128, 25.0, 0))
    assert joined(list(finder.find(frames))).box[:, 0].tolist() == [100, 10]


def test_crops_are_cut_by_the_centres_of_pixels_while_detectors_count_from_the_edge(
    finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    points = np.array([[100, 53], [121, 53], [110, 66], [103, 76], [119, 76]], np.float32)
    found = Faces(np.array([[85, 25, 135, 90]], np.float32), points[None] + 0.5, np.ones(1, np.float32))
    monkeypatch.setattr(finder, "detector", Scripted([found]))
    facts = VideoFacts("mp4", "h264", 256, 256, 25.0, 0)
    batch = joined(list(finder.find(Frames(rgb[None], [1], facts))))
    assert np.array_equal(batch.crops, finder.aligner(rgb, points[None]))
    assert np.array_equal(batch.landmarks[0], points + 0.5)


@pytest.mark.parametrize("detector", ["mtcnn", "retinaface_mobilenet0.25"])
def test_stored_landmarks_give_the_same_crops_again(
    detector: str, moving: np.ndarray, request: pytest.FixtureRequest
) -> None:
    """From the columns of `faces`, in pixels of the source, back to the decoded frame, which is half as high here."""
    options = {"name": detector, "min_face": 20}
    if detector != "mtcnn":
        options["weights"] = request.getfixturevalue("weights") / f"{detector}.pth"
    finder = FaceFinder(FacesOptions.model_validate({"detector": options}))
    facts = VideoFacts("mp4", "h264", 256, 512, 25.0, 0)
    batch = joined(list(finder.find(Frames(moving, [5], facts))))
    table = to_faces(batch, Video("/clips/a.mp4", "1-1", 1))
    assert len(batch.crops) >= 9
    rows = [row for row in table.to_pylist() if row["track_id"] is not None]
    for row, crop in zip(rows, batch.crops, strict=True):
        stored = np.array([row[name] for name in LANDMARK_COLUMNS], np.float32).reshape(1, 5, 2)
        landmarks = stored * np.array([1, 1 / 2], np.float32)
        assert np.array_equal(finder.crops(moving[row["frame_index"]], landmarks)[0], crop)


TOY = """
import numpy as np
from ingest.detect.detector import faces_of

def load(options):
    points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]])
    def detect(rgb):
        return [faces_of([[0, 0, 112, 112]], points, [frame.mean() / 255], min_face=options.min_face) for frame in rgb]
    return detect
"""


def test_a_detector_that_is_registered_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_detector.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValidationError, match="should be one of mtcnn"):
        FacesOptions.model_validate({"detector": {"name": "toy"}})
    monkeypatch.setitem(registry.DETECTORS, "toy", registry.Registered("toy_detector", results=7))
    options = FacesOptions.model_validate({"detector": {"name": "toy"}})
    assert options.identity()["results"]["detect"] == 7
    frames = np.stack([np.full((128, 128, 3), level, np.uint8) for level in (250, 255)])
    batch = joined(list(FaceFinder(options).find(Frames(frames, [2], VideoFacts("mp4", "h264", 128, 128, 25.0, 0)))))
    assert batch.score.tolist() == pytest.approx([250 / 255, 1])
    assert batch.track_id.tolist() == [0, 0]


@pytest.mark.slow
def test_a_search_of_six_frames_a_second_finds_the_tracks_of_a_search_of_all(
    tmp_path: Path, finder: FaceFinder
) -> None:
    path, searched = tmp_path / "clip.mp4", 0
    synthetic.write(path, synthetic.pictures(31, 320, 180), 31 / 30)
    dense = find(path, finder)
    quick = FaceFinder(FacesOptions.model_validate({"detector": {"every": "auto"}}))
    search = quick.detector

    def counted(rgb: NDArray[np.uint8]) -> list[Faces]:
        nonlocal searched
        searched += len(rgb)
        return search(rgb)

    quick.detector = counted
    found = find(path, quick)
    assert 7 <= searched < 20  # 0, 5, ... 30, and those where something happens
    for name in ("frame_index", "time_s", "row", "track_id"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dense, name))
    eyes = np.linalg.norm(dense.landmarks[:, 1] - dense.landmarks[:, 0], axis=1)
    off = np.linalg.norm(found.landmarks - dense.landmarks, axis=2).mean(1) / eyes
    assert np.median(off) < 0.03
    assert off.max() < 0.2
