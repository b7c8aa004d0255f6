"""Detection in every k-th frame. Between two of these, faces are interpolated where nothing happens.

Something happens where the picture changes as at a cut, or where the faces of both frames are not the same: one comes,
goes, or moves fast. There the frame in the middle is searched, too, and so on until each stretch is quiet or searched
throughout. So a face that a search of all frames finds in k frames or more in a row is found here as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.decode.reader import FrameBatch
from ingest.detect.detector import Detector, Faces

BETWEEN_RESULTS = 1  # version of the faces between frames that are searched; docs/decisions.md says when to raise it
SIDE = 32  # of a thumbnail
QUIET = 8.0  # most mean difference of the thumbnails of neighbouring frames, in grey levels
SAME = 0.6  # least intersection over union of a face's boxes in two frames


def detected(batches: Iterable[FrameBatch], detector: Detector, every: int) -> Iterator[tuple[FrameBatch, list[Faces]]]:
    """The frames in order, in batches, with the faces of each frame. The faces do not depend on the batches.

    Batches are those that are given if `every` is 1; else they end with a frame that was searched, and hold up to
    `every` frames more.
    """
    if every == 1:
        for batch in batches:
            yield batch, detector(batch.rgb)
        return
    held: FrameBatch | None = None  # frames after the last one that was searched
    before: tuple[Faces, NDArray[np.float32]] | None = None  # the faces and the thumbnail of that one
    for batch in batches:
        frames = batch if held is None else _joined(held, batch)
        # The first frame of all is searched, then every k-th.
        searched = np.arange(0 if before is None else every - 1, len(frames), every)
        if not len(searched):
            held = _part(frames, 0, len(frames))
            continue
        stop = int(searched[-1]) + 1
        faces, thumbnail = _faces(frames.rgb[:stop], searched, before, detector)
        before, held = (faces[-1], thumbnail), _part(frames, stop, len(frames))
        yield _part(frames, 0, stop), faces
    if held is not None and len(held):
        yield held, _faces(held.rgb, np.array([len(held) - 1]), before, detector)[0]


def _faces(
    rgb: NDArray[np.uint8],
    searched: NDArray[np.intp],
    before: tuple[Faces, NDArray[np.float32]] | None,
    detector: Detector,
) -> tuple[list[Faces], NDArray[np.float32]]:
    """The faces of all frames, the last of which is one of those to be searched, and its thumbnail."""
    thumbnails = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) for frame in rgb]
    changes = np.array(
        [np.abs(b - a).mean() for a, b in pairwise([before[1] if before else thumbnails[0], *thumbnails])]
    )
    known = dict(zip(searched.tolist(), detector(rgb[searched]), strict=True))
    if before is not None:
        known[-1] = before[0]
    stretches = list(pairwise(sorted(known)))
    while stretches:
        first, last = stretches.pop()
        if last - first < 2:
            continue
        pairs = same(known[first], known[last]) if changes[first + 1 : last + 1].max() < QUIET else None
        if pairs is None:
            middle = (first + last) // 2
            known[middle] = detector(rgb[middle : middle + 1])[0]
            stretches += [(first, middle), (middle, last)]
            continue
        for frame in range(first + 1, last):
            known[frame] = between(known[first], known[last][pairs], (frame - first) / (last - first))
    return [known[frame] for frame in range(len(rgb))], thumbnails[-1]


def same(a: Faces, b: Faces) -> NDArray[np.intp] | None:
    """For each face of `a`, its place in `b`; None unless all faces of both frames are the same and moved little."""
    if len(a) != len(b):
        return None
    x, y = a.boxes[:, None], b.boxes[None]
    sides = np.minimum(x[..., 2:], y[..., 2:]) - np.maximum(x[..., :2], y[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (x, y)]
    alike = common >= SAME * (areas[0] + areas[1] - common)
    return np.nonzero(alike)[1] if (alike.sum(0) == 1).all() and (alike.sum(1) == 1).all() else None


def between(a: Faces, b: Faces, share: float) -> Faces:
    """The faces where they are after this share of the way from `a` to `b`, both in the same order."""
    boxes, landmarks, scores = (
        ((1 - share) * x + share * y).astype(np.float32)
        for x, y in ((a.boxes, b.boxes), (a.landmarks, b.landmarks), (a.scores, b.scores))
    )
    return Faces(boxes, landmarks, scores)[np.argsort(-scores, kind="stable")]


def _part(frames: FrameBatch, start: int, stop: int) -> FrameBatch:
    """Some of the frames, in memory of their own."""
    return FrameBatch(**{field.name: getattr(frames, field.name)[start:stop].copy() for field in fields(frames)})


def _joined(a: FrameBatch, b: FrameBatch) -> FrameBatch:
    return FrameBatch(
        **{field.name: np.concatenate([getattr(a, field.name), getattr(b, field.name)]) for field in fields(a)}
    )
