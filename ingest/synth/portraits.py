"""Two public-domain photographs that are part of installed packages, turned into neutral faces.

NASA's portrait of Eileen Collins (`astronaut.png` of scikit-image) and the US Navy's of Grace Hopper
(`grace_hopper.jpg` of matplotlib). Control points and outlines were set by hand, in pixels (x, y) of the photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

import cv2
import numpy as np

from ingest.synth import facewarp, mouth
from ingest.synth.facewarp import HEIGHT, SCALE, WIDTH, Face
from ingest.synth.mouth import Point

PORTRAITS = ("astronaut", "hopper")


@dataclass(frozen=True)
class _Photograph:
    package: str
    path: str
    points: dict[str, Point]
    outline: tuple[Point, ...]
    guard: Point
    smile: Point = (0, 0)
    """The smile to remove: multiples of AU12's displacement, horizontally and vertically."""
    teeth: dict[str, Point] = field(default_factory=dict)
    """If teeth are visible: the lower edge of the upper lip and the upper edge of the lower lip, at the middle."""
    brows: tuple[tuple[Point, ...], ...] = ()
    """Eyebrows that are too pale in the photograph, as lines to be drawn."""


_PHOTOGRAPHS = {
    "astronaut": _Photograph(
        package="skimage",
        path="data/astronaut.png",
        points={
            "brow_outer_left": (190, 90), "brow_middle_left": (200, 88), "brow_inner_left": (213, 91.5),
            "brow_inner_right": (237, 93), "brow_middle_right": (250, 91.5), "brow_outer_right": (262, 95),
            "lid_upper_left": (203, 98.5), "lid_lower_left": (203, 105.5),
            "lid_upper_right": (247, 100), "lid_lower_right": (247, 107.5),
            "eye_left": (203, 101), "eye_right": (246.5, 103), "nose": (225, 126),
            "guard_left": (202, 103), "guard_right": (248, 105),
            "wing_left": (213, 128), "wing_right": (236, 129), "lip_upper": (224, 142), "lip_lower": (223, 153),
            "corner_left": (204, 140), "corner_right": (245, 139.5), "lip_line": (224.5, 146),
            "cheek_left": (200, 122), "cheek_right": (250, 123), "chin": (224, 176),
        },
        outline=(
            (201, 23), (163, 51), (153, 68), (157, 104), (170, 116), (174, 128), (182, 132), (182, 147), (153, 151),
            (140, 158), (123, 178), (120, 201), (113, 202), (90, 227), (65, 246), (44, 282), (26, 342), (26, 366),
            (19, 390), (28, 494), (24, 511), (511, 511), (493, 468), (502, 455), (493, 421), (478, 384), (455, 361),
            (418, 345), (364, 348), (360, 344), (352, 287), (340, 262), (303, 233), (289, 203), (256, 174), (256, 163),
            (266, 137), (275, 134), (290, 117), (300, 92), (296, 58), (288, 43), (276, 31), (248, 18), (227, 16),
        ),
        guard=(0.34, 0.21),
        smile=(0.9, 1.2),
        teeth={"upper": (224.5, 143.5), "lower": (224, 149.5)},
    ),
    "hopper": _Photograph(
        package="matplotlib",
        path="mpl-data/sample_data/grace_hopper.jpg",
        points={
            "brow_outer_left": (192, 166), "brow_middle_left": (213, 160), "brow_inner_left": (243, 165),
            "brow_inner_right": (286, 161), "brow_middle_right": (312, 154), "brow_outer_right": (336, 159),
            "lid_upper_left": (219, 185), "lid_lower_left": (219, 200),
            "lid_upper_right": (308, 181), "lid_lower_right": (308, 197),
            "eye_left": (221, 190), "eye_right": (306, 187), "nose": (268, 232),
            "guard_left": (213, 202), "guard_right": (314, 198),
            "wing_left": (241, 242), "wing_right": (296, 240), "lip_upper": (268, 271), "lip_lower": (268, 288),
            "corner_left": (230, 281), "corner_right": (308, 277), "lip_line": (268, 279.5),
            "cheek_left": (213, 240), "cheek_right": (324, 235), "chin": (270, 325),
        },
        outline=(
            (218, 30), (213, 43), (197, 49), (181, 64), (172, 87), (156, 102), (150, 110), (148, 160), (160, 176),
            (153, 196), (159, 224), (170, 261), (171, 285), (194, 298), (196, 320), (165, 344), (121, 360), (80, 368),
            (47, 387), (37, 415), (25, 425), (27, 459), (11, 599), (511, 599), (511, 437), (492, 393), (461, 376),
            (422, 366), (365, 342), (329, 312), (330, 301), (347, 292), (356, 266), (361, 262), (375, 196), (368, 182),
            (371, 134), (365, 89), (352, 86), (348, 71), (335, 56), (313, 44), (300, 43), (281, 27), (249, 23),
        ),
        guard=(0.48, 0.40),
        brows=(
            ((192, 166), (203, 161), (220, 160), (243, 165)),
            ((286, 161), (305, 155), (320, 154), (336, 159)),
        ),
    ),
}  # fmt: skip


def load(name: str) -> Face:
    """The neutral face of one of `PORTRAITS`, on its canvas."""
    photograph = _PHOTOGRAPHS[name]
    data = (files(photograph.package) / photograph.path).read_bytes()
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = _with_brows(image, photograph)
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(cover, [np.round(np.array(photograph.outline)).astype(np.int32)], 255)
    to_face = _to_face(photograph.points)

    def in_face(point: Point) -> Point:
        x, y = to_face @ (*point, 1)
        return float(x), float(y)

    points = {key: in_face(point) for key, point in photograph.points.items()}
    whole = (slice(0, round(HEIGHT * SCALE)), slice(0, round(WIDTH * SCALE)))
    back, down = photograph.smile
    relax = [(point, -back * x, -down * y) for point, x, y in facewarp.MOVES["au12"]]
    forward = facewarp.field(points, photograph.guard, relax, facewarp.grid(whole))
    source = facewarp.from_canvas(facewarp.inverse(forward, whole, steps=8))
    if photograph.teeth:
        edges = {edge: in_face(point) for edge, point in photograph.teeth.items()}
        source = _without_teeth(source, points, edges)
    to_image = cv2.invertAffineTransform(to_face)
    pixels = (source @ to_image[:, :2].T + to_image[:, 2]).astype(np.float32)
    colour = cv2.remap(image, pixels, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    coverage = cv2.remap(cover, pixels, None, cv2.INTER_LINEAR)
    coverage = cv2.GaussianBlur(coverage, (0, 0), 1.5)
    moved = np.array(list(points.values()), np.float32)
    moved += facewarp.field(points, photograph.guard, relax, moved)
    neutral = {key: (float(x), float(y)) for key, (x, y) in zip(points, moved, strict=True)}
    if photograph.teeth:
        colour = _with_lip_line(colour, neutral)
    texture = np.dstack([(colour * (coverage[..., None] / 255)).astype(np.uint8), coverage])
    return Face(name, texture, neutral, photograph.guard)


def _to_face(points: dict[str, Point]) -> np.ndarray:
    """float64 [2, 3]: the similarity from pixels of the photograph to face coordinates, from the places of the eyes."""
    left, right = complex(*points["eye_left"]), complex(*points["eye_right"])
    turn = 1 / (right - left)
    shift = -turn * (left + right) / 2
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _without_teeth(source: np.ndarray, points: dict[str, Point], edges: dict[str, Point]) -> np.ndarray:
    """Closes a smiling mouth: stretches both lips to the line between them, so that the teeth are no longer visible."""
    x, y = source[..., 0], source[..., 1]
    line = mouth.lip_line(points, x)
    across = mouth.between_corners(points, x) ** 0.6
    up = (points["lip_line"][1] - edges["upper"][1]) * across
    down = (edges["lower"][1] - points["lip_line"][1]) * across
    t = y - line
    shift = np.where(t < 0, -up, down) * np.exp(-np.abs(t) / 0.2)
    return np.stack([x, y + shift], axis=-1).astype(np.float32)


def _with_lip_line(colour: np.ndarray, points: dict[str, Point]) -> np.ndarray:
    """Darkens the line where the lips meet, as it looks in a photographed closed mouth."""
    at = facewarp.grid((slice(0, colour.shape[0]), slice(0, colour.shape[1])))
    across = mouth.between_corners(points, at[..., 0])
    away = at[..., 1] - mouth.lip_line(points, at[..., 0])
    shade = 0.45 * across**0.3 * np.exp(-(away**2) / (2 * 0.014**2))
    return (colour * (1 - shade[..., None])).astype(np.uint8)


def _with_brows(image: np.ndarray, photograph: _Photograph) -> np.ndarray:
    """Draws the photograph's `brows`."""
    stroke = np.zeros(image.shape[:2], np.uint8)
    for line in photograph.brows:
        cv2.polylines(stroke, [np.array(line, np.int32)], False, 255, thickness=6, lineType=cv2.LINE_AA)
    soft = cv2.GaussianBlur(stroke, (0, 0), 1.5)[..., None] / 255 * 0.6
    return (image * (1 - soft) + np.array([70, 50, 45]) * soft).astype(np.uint8)
