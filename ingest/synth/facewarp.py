"""Animates a photographed face by action units: warps it around control points, and opens its mouth.

Face coordinates: the origin is half-way between the eyes, x points to the image's right, y down, and the unit is the
distance between the eyes. A face is drawn on a canvas with `SCALE` pixels per unit; only the patch `PATCH` around the
face changes.

An action unit moves control points, and the skin around each moves with it, less with the distance (a Gaussian). These
displacements say where the skin goes. A picture needs the inverse, where the skin of a pixel comes from; it is found by
fixed-point iteration. Displacements are linear in the intensities, so each action unit's field is computed only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from common.labels import ACTION_UNITS
from ingest.synth import mouth
from ingest.synth.mouth import Point

SCALE = 60
IDENTITY = 0.07
"""To make another person, parts of the face are shifted at random by this standard deviation, in eye distances."""
LEFT, TOP, WIDTH, HEIGHT = -5.2, -3.2, 10.4, 8.8
PATCH_X0, PATCH_Y0, PATCH_X1, PATCH_Y1 = -1.7, -1.4, 1.7, 3.0
PATCH = (
    slice(round((PATCH_Y0 - TOP) * SCALE), round((PATCH_Y1 - TOP) * SCALE)),
    slice(round((PATCH_X0 - LEFT) * SCALE), round((PATCH_X1 - LEFT) * SCALE)),
)
_CORNER = np.array([LEFT, TOP], np.float32)

_MOUTH_ROWS = round((0.3 - PATCH_Y0) * SCALE)
"""The first row of the patch that an opening mouth can change."""

Move = tuple[str, float, float]
"""A control point and its displacement: x outwards (away from the nose) and y down."""

SIGMA = {"brow": 0.17, "lid": 0.10, "lip": 0.17, "wing": 0.16, "corner": 0.16, "cheek": 0.25, "chin": 0.35}
"""Standard deviation of the Gaussian around a control point, by the first word of its name."""

MOVES: dict[str, tuple[Move, ...]] = {
    "au01": (("brow_inner", 0, -0.14), ("brow_middle", 0, -0.05)),
    "au02": (("brow_outer", 0, -0.13), ("brow_middle", 0, -0.10)),
    "au04": (("brow_inner", -0.05, 0.11), ("brow_middle", -0.03, 0.06)),
    "au06": (("lid_lower", 0, -0.04), ("cheek", 0, -0.09)),
    "au07": (("lid_upper", 0, 0.05), ("lid_lower", 0, -0.05)),
    "au10": (("lip_upper", 0, -0.09), ("wing", 0.02, -0.07)),
    "au12": (("corner", 0.13, -0.12), ("cheek", 0.02, -0.04)),
    "au15": (("corner", 0, 0.14),),
    "au23": (("corner", -0.12, 0),),
    "au24": (("lip_upper", 0, 0.07), ("lip_lower", 0, -0.07)),
    "au25": (),
    "au26": (("chin", 0, 0.16),),
}
LANDMARKS = ("eye_left", "eye_right", "nose", "corner_left", "corner_right")
"""The five points that detectors find; left and right are those of the image."""


@dataclass(frozen=True)
class Face:
    """A neutral face on its canvas.

    texture: uint8 [H, W, 4], RGB premultiplied by alpha, and alpha: 255 where the person covers the background.
    points: control points by name, ending in `_left` and `_right` (of the image) if there are two.
    guard: half-axes of the ellipses around the eyes (or glasses) that moving brows do not change.
    """

    name: str
    texture: np.ndarray
    points: Mapping[str, Point]
    guard: Point


def grid(box: tuple[slice, slice]) -> np.ndarray:
    """float32 [H, W, 2]: the face coordinates of the pixels in a box of the canvas."""
    y, x = np.mgrid[box].astype(np.float32)
    return from_canvas(np.stack([x, y], axis=-1))


def from_canvas(pixels: np.ndarray) -> np.ndarray:
    """Canvas pixels [..., 2], with whole numbers at their centres -> face coordinates [..., 2]."""
    return (pixels + 0.5) / SCALE + _CORNER


def to_canvas(at: np.ndarray) -> np.ndarray:
    """The inverse of `from_canvas`."""
    return (at - _CORNER) * SCALE - 0.5


def field(face_points: Mapping[str, Point], guard: Point, moves: Iterable[Move], at: np.ndarray) -> np.ndarray:
    """float32 [..., 2]: the displacement of the skin at face coordinates `at` [..., 2]."""
    total = np.zeros(at.shape, np.float32)
    for name, outwards, down in moves:
        sigma = SIGMA[name.split("_")[0]]
        for side, sign in (("_left", -1), ("_right", 1), ("", 0)):
            point = face_points.get(name + side)
            if point is None:
                continue
            bump = np.exp(-((at - np.array(point, np.float32)) ** 2).sum(-1) / (2 * sigma**2))
            if name.startswith("brow"):
                bump = bump * _beyond_the_eyes(face_points, guard, at)
            total += bump[..., None] * np.array([sign * outwards, down], np.float32)
    return total


def _beyond_the_eyes(points: Mapping[str, Point], guard: Point, at: np.ndarray) -> np.ndarray:
    free = np.ones(at.shape[:-1], np.float32)
    for side in ("left", "right"):
        r2 = (((at - np.array(points[f"guard_{side}"], np.float32)) / np.array(guard, np.float32)) ** 2).sum(-1)
        free *= 1 - np.exp(-(r2**3))
    return free


def inverse(forward: np.ndarray, box: tuple[slice, slice], steps: int = 4) -> np.ndarray:
    """float32 [H, W, 2]: for each pixel of a box the canvas pixel that its skin comes from.

    forward: float32 [H, W, 2], the displacements in face coordinates. Each step goes half-way, because a whole step
    overshoots where skin is stretched to more than twice its length (under a raised brow).
    """
    height, width = forward.shape[:2]
    here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    shift = forward * SCALE
    back = shift
    for _ in range(steps):
        back = (back + cv2.remap(shift, here - back, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)) / 2
    return here + np.array([box[1].start, box[0].start], np.float32) - back


def fade(at: np.ndarray) -> np.ndarray:
    """float32 [...]: a weight that is 1 inside the patch and falls to 0 at its edge, so that no seam is visible."""
    inset = np.minimum(
        np.minimum(at[..., 0] - PATCH_X0, PATCH_X1 - at[..., 0]),
        np.minimum(at[..., 1] - PATCH_Y0, PATCH_Y1 - at[..., 1]),
    )
    t = np.clip(inset / 0.4, 0, 1)
    return t * t * (3 - 2 * t)


def varied(face: Face, rng: np.random.Generator) -> Face:
    """Another person made from the same portrait: the face is warped at random, and mirrored half of the time."""
    bend = rng.normal(0, IDENTITY, (4, 4, 2)).astype(np.float32)
    at = grid(PATCH)
    smooth = cv2.resize(bend, at.shape[1::-1], interpolation=cv2.INTER_CUBIC)

    def moves(at: np.ndarray) -> np.ndarray:
        pixels = ((at - np.array([PATCH_X0, PATCH_Y0], np.float32)) * SCALE).reshape(-1, at.shape[-2], 2)
        return cv2.remap(smooth, pixels, None, cv2.INTER_LINEAR).reshape(at.shape) * fade(at)[..., None]

    texture = face.texture.copy()
    texture[PATCH] = cv2.remap(face.texture, inverse(moves(at), PATCH), None, cv2.INTER_LINEAR)
    places = np.array(list(face.points.values()), np.float32)
    places = places + moves(places)
    points = {name: (float(x), float(y)) for name, (x, y) in zip(face.points, places, strict=True)}
    varied_face = replace(face, texture=texture, points=points)
    return mirrored(varied_face) if rng.random() < 0.5 else varied_face


def mirrored(face: Face) -> Face:
    """The face mirrored left to right."""
    swap = {"left": "right", "right": "left"}
    points = {}
    for name, (x, y) in face.points.items():
        stem, _, side = name.rpartition("_")
        points[f"{stem}_{swap[side]}" if side in swap else name] = (-x, y)
    return replace(face, texture=np.ascontiguousarray(face.texture[:, ::-1]), points=points)


class Actor:
    """A face that can be animated. Holds the displacement fields and the canvas: make one per clip and thread."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self._canvas = face.texture.copy()
        self._at = grid(PATCH)
        self._points = np.array([face.points[name] for name in LANDMARKS], np.float32)
        self._fields = self._linear(self._at) * fade(self._at)[None, ..., None]
        self._point_fields = self._linear(self._points)
        self._opening = np.array([mouth.OPENING.get(unit, 0.0) for unit in ACTION_UNITS], np.float32)

    def _linear(self, at: np.ndarray) -> np.ndarray:
        """float32 [14, ..., 2]: the displacements by each action unit, a turn of the head and a nod, each of size 1."""
        nose = np.array(self.face.points["nose"], np.float32)
        depth = 0.7 * np.exp(
            -((at / np.array([0.8, 1.0], np.float32) - np.array([0, 0.5], np.float32)) ** 2).sum(-1) / 2
        )
        depth = depth + 0.3 * np.exp(-((at - nose) ** 2).sum(-1) / (2 * 0.25**2))
        turns = [depth[..., None] * np.array(direction, np.float32) for direction in ((1, 0), (0, 1))]
        units = [field(self.face.points, self.face.guard, MOVES[unit], at) for unit in ACTION_UNITS]
        return np.stack([*units, *turns]).astype(np.float32)

    def pose(self, intensities: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The canvas (uint8 [H, W, 4], valid until the next call) and the five landmarks on it (float32 [5, 2]).

        intensities: [12] in [0, 1]. turn: [2], how far the middle of the face moves right and down, in eye distances.
        """
        weights = np.concatenate([intensities, turn]).astype(np.float32)
        forward = np.zeros_like(self._fields[0])
        for index in np.flatnonzero(weights):
            forward = cv2.scaleAdd(self._fields[index], float(weights[index]), forward)
        source = inverse(forward, PATCH)
        inside = self._open_mouth(source, float(intensities @ self._opening))
        patch = cv2.remap(self.face.texture, source, None, cv2.INTER_LINEAR)
        if inside:
            inside.paint(patch[_MOUTH_ROWS:, :, :3])
        self._canvas[PATCH] = patch
        landmarks = self._points + np.tensordot(weights, self._point_fields, 1)
        return self._canvas, to_canvas(landmarks)

    def _open_mouth(self, source: np.ndarray, opening: float) -> mouth.Inside | None:
        """Opens the mouth in `source`, in place; returns what is visible between the lips, None if it stays closed."""
        if opening * SCALE < 0.25:
            return None
        low = source[_MOUTH_ROWS:]
        shift, inside = mouth.part_lips(from_canvas(low), self.face.points, opening, 1 / SCALE)
        low[..., 1] += shift * SCALE
        return inside
