"""Tracks of real clips against what a person sees, and beside two plain trackers that get the same boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from track_truth import NOBODY, IouTracker, KalmanTracker, Verdict, judged

from ingest.cuts import CutFinder
from ingest.decode.reader import open_video
from ingest.detect.detector import Faces
from ingest.detect.mtcnn import Mtcnn
from ingest.looks import looks
from ingest.track import Tracker, TrackerOptions

STRETCHES = json.loads(Path(__file__).with_name("people.json").read_text())["stretches"]
FPS = 25.0  # of all stretches; a joined one has no times of its own


@dataclass
class Stretch:
    """Its frames, the faces that the detector finds, and who each of them is."""

    frames: list[np.ndarray]
    faces: list[Faces]
    people: list[np.ndarray]


def shown(rgb: np.ndarray, view: list[float] | None) -> np.ndarray:
    if view is None:
        return rgb.copy()
    (height, width), (x0, y0, x1, y1) = rgb.shape[:2], view
    part = rgb[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    return cv2.resize(part, (360, 360), interpolation=cv2.INTER_AREA)


def shots(clips: Path) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
    """Every shot of all stretches with its frames, clip by clip, so that each is decoded once."""
    everything = [shot for stretch in STRETCHES.values() for shot in stretch]
    for clip in dict.fromkeys(shot["clip"] for shot in everything):
        mine = [(shot, []) for shot in everything if shot["clip"] == clip]
        with open_video(clips / clip) as reader:
            for batch in reader:
                for index, rgb in zip(batch.frame_index.tolist(), batch.rgb, strict=True):
                    for shot, frames in mine:
                        if shot["first"] <= index <= shot["last"]:
                            frames.append(shown(rgb, shot.get("view")))
        yield from mine


def who(shot: dict[str, Any], frame: int, faces: Faces, size: tuple[int, int], names: list[str]) -> np.ndarray:
    """int [K]: which of the names each face of the clip's frame has, by where its centre is."""
    found = np.full(len(faces), NOBODY)
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 / np.array(size[::-1])
    for name, places in shot["people"].items():
        for first, last, x0, y0, x1, y1 in places:
            if first <= frame <= last:
                found[((centres >= (x0, y0)) & (centres <= (x1, y1))).all(1)] = names.index(name)
    return found


def joined(stretch: list[dict[str, Any]], pictures: list[list[np.ndarray]]) -> tuple[list[np.ndarray], list[Any]]:
    """The frames of the shots, and for each the shot and its clip's frame; a dissolve's frames belong to the first."""
    frames, origin = [], []
    for shot, new in zip(stretch, pictures, strict=True):
        numbers = list(zip([shot] * len(new), range(shot["first"], shot["last"] + 1), strict=True))
        length = origin[-1][0].get("dissolve", 0) if origin else 0
        for i in range(length):
            share = (i + 1) / (length + 1)
            frames[i - length] = cv2.addWeighted(frames[i - length], 1 - share, new[i], share, 0)
        frames, origin = frames + new[length:], origin + numbers[length:]
    for i in stretch[0].get("flash", []):
        frames[i] = np.clip(frames[i] * 1.8 + 60.0, 0, 255).astype(np.uint8)
    return frames, origin


@pytest.fixture(scope="module")
def stretches(clips: Path) -> dict[str, Stretch]:
    detector = Mtcnn(min_face=32, threshold=0.7, max_side=960)
    pictures = {id(shot): frames for shot, frames in shots(clips)}
    found = {}
    for title, stretch in STRETCHES.items():
        names = list(dict.fromkeys(name for shot in stretch for name in shot["people"]))
        frames, origin = joined(stretch, [pictures[id(shot)] for shot in stretch])
        faces = [detector(frame[None])[0] for frame in frames]
        people = [
            who(shot, number, each, frame.shape[:2], names)
            for (shot, number), each, frame in zip(origin, faces, frames, strict=True)
        ]
        found[title] = Stretch(frames, faces, people)
    return found


def ours(stretch: Stretch) -> list[np.ndarray]:
    finder, tracker = CutFinder(), Tracker(TrackerOptions())
    cuts = [begins for frame in stretch.frames for begins in finder.see(frame[None])] + finder.end()
    return [
        tracker.update(i / FPS, faces, looks(frame, faces.boxes), cut=cut)
        for i, (frame, faces, cut) in enumerate(zip(stretch.frames, stretch.faces, cuts, strict=True))
    ]


def theirs(stretch: Stretch, tracker: IouTracker) -> list[np.ndarray]:
    return [tracker.update(faces.boxes) for faces in stretch.faces]


def total(verdicts: list[Verdict]) -> tuple[int, int, int]:
    return tuple(sum(getattr(verdict, name) for verdict in verdicts) for name in ("switches", "fragments", "mixed"))


@pytest.mark.soak
def test_tracks_are_the_people_that_a_person_sees(stretches: dict[str, Stretch]) -> None:
    verdicts = {title: judged(each.people, ours(each)) for title, each in stretches.items()}
    assert min(verdict.faces for verdict in verdicts.values()) >= 5
    assert sum(verdict.faces for verdict in verdicts.values()) > 900
    wrong = {title: verdict for title, verdict in verdicts.items() if verdict.switches or verdict.mixed}
    assert wrong.keys() <= {"a man is blurred, turns away and comes back"}  # half a second without a face, and a leap
    assert total(list(verdicts.values())) <= (1, 1, 0)


@pytest.mark.soak
def test_plain_trackers_join_people_and_lose_them_on_the_same_boxes(stretches: dict[str, Stretch]) -> None:
    mine = total([judged(each.people, ours(each)) for each in stretches.values()])
    for rival in (IouTracker, KalmanTracker):
        found = total([judged(each.people, theirs(each, rival())) for each in stretches.values()])
        assert sum(found) > sum(mine), rival
