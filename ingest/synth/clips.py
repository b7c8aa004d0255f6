"""Labelled synthetic clips in Aff-Wild2's own layout, for demos and tests without a real dataset.

Two photographed faces (`portraits`) are animated by random action units (`actionunits`), which warp the picture
(`facewarp`). Identity, framing, light, colour, background and motion differ from clip to clip. The labels are derived
from the action units. All random choices depend on the seed, the split and the clip's number alone: the same command
makes the same pictures, and a held-out clip never has the same random values as a training clip.

Layout (as of ABAW 3 to 8): `videos/<name>.mp4`, `6th_ABAW_Annotations/<task>/<split>/<name>.txt`, and
`cropped_aligned/<name>/00001.jpg` onwards. Clips come in pairs, one of each portrait; every fifth pair, counted from
the last, is the Validation_Set.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg

from common.crops import Crop
from common.errors import StoreError, UsageError
from ingest.align import Aligner
from ingest.datasets import affwild2
from ingest.synth import actionunits, facewarp, portraits

WIDTH, HEIGHT, FPS = 320, 240, 30
SHORT, LONG = 320, 600  # frames: about a window of 300, and several that overlap
# mbtree is off because it makes x264 read uninitialised memory: the same frames would not always give the same bytes.
ENCODING = {"preset": "veryfast", "crf": "18", "mbtree": "0"}
UNMARKED_SHARE = 0.03
"""About this share of each task's frames is marked as not annotated."""


@dataclass(frozen=True)
class Clip:
    """A clip to be made: these fields determine all its pictures and labels. `held_out`: for validation only."""

    number: int
    frames: int
    seed: int
    held_out: bool

    @property
    def portrait(self) -> str:
        return portraits.PORTRAITS[self.number % len(portraits.PORTRAITS)]

    @property
    def name(self) -> str:
        return f"{self.portrait}_{self.number:03d}"

    def generators(self) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
        """For the action units, the look, and the frames without labels: a change of one does not change the others."""
        seeds = np.random.SeedSequence([self.seed, int(self.held_out), self.number]).spawn(3)
        script, look, marks = (np.random.default_rng(each) for each in seeds)
        return script, look, marks

    def intensities(self) -> np.ndarray:
        """float32 [frames, 12] in [0, 1]: how strongly each action unit is shown."""
        return actionunits.script(self.frames, self.generators()[0])


def plan(videos: int, seconds: float | None, seed: int) -> list[Clip]:
    """The clips of a dataset, each of `seconds`; None: of `SHORT` frames, and those of every third pair of `LONG`.

    Raises UsageError if `videos` or `seconds` is too small for any.
    """
    if videos < 1 or (seconds is not None and round(seconds * FPS) < 1):
        raise UsageError("nothing to make: --videos and --seconds must be more than 0")

    def frames(from_last: int) -> int:
        return round(seconds * FPS) if seconds is not None else SHORT if from_last % 3 else LONG

    pairs = (videos + 1) // 2
    from_last = [pairs - 1 - n // 2 for n in range(videos)]
    return [Clip(n, frames(last), seed, n >= 2 and last % 5 == 0) for n, last in enumerate(from_last)]


def frames(clip: Clip) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame (uint8 [240, 320, 3], RGB) with the true five landmarks in it (float32 [5, 2], px)."""
    rng = clip.generators()[1]
    actor = facewarp.Actor(facewarp.varied(portraits.load(clip.portrait), rng))
    background, tone, light = _background(rng), _tone(rng), _light(rng)
    grain = rng.normal(0, rng.uniform(1, 5), (HEIGHT + 64, WIDTH + 64, 3)).astype(np.int16)
    placements, turns = _motion(clip.frames, rng)
    for intensities, placement, turn in zip(clip.intensities(), placements, turns, strict=True):
        canvas, landmarks = actor.pose(intensities, turn)
        person = cv2.warpAffine(canvas, placement, (WIDTH, HEIGHT))
        behind = cv2.multiply(background, cv2.merge([255 - person[..., 3]] * 3), scale=1 / 255)
        frame = cv2.LUT(cv2.add(np.ascontiguousarray(person[..., :3]), behind), tone)
        frame = cv2.multiply(frame, light, scale=1 / 128)
        y, x = rng.integers(64, size=2)
        frame = cv2.add(frame, np.ascontiguousarray(grain[y : y + HEIGHT, x : x + WIDTH]), dtype=cv2.CV_8U)
        yield frame, (landmarks @ placement[:, :2].T + placement[:, 2]).astype(np.float32)


def _background(rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3]: a colour gradient with blurred ellipses, like a wall behind objects that are out of focus."""
    top, bottom = _dull(rng), _dull(rng)
    wall = np.linspace(top, bottom, HEIGHT)[:, None].repeat(WIDTH, 1)
    for _ in range(int(rng.integers(3, 9))):
        centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
        axes = (int(rng.integers(10, 90)), int(rng.integers(10, 90)))
        colour = tuple(_dull(rng).tolist())
        cv2.ellipse(wall, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return cv2.GaussianBlur(wall, (0, 0), float(rng.uniform(3, 12))).astype(np.uint8)


def _dull(rng: np.random.Generator) -> np.ndarray:
    """float64 [3]: a colour of low saturation, as in rooms."""
    return rng.uniform(30, 215) * rng.uniform(0.7, 1.15, 3)


def _tone(rng: np.random.Generator) -> np.ndarray:
    """uint8 [1, 256, 3]: random exposure, tint and gamma as one look-up table."""
    gain, tint, gamma = rng.uniform(0.7, 1.2), rng.uniform(0.9, 1.1, 3), rng.uniform(0.75, 1.35)
    level = np.linspace(0, 1, 256)[:, None] ** gamma
    return np.clip(level * gain * tint * 255, 0, 255).astype(np.uint8)[None]


def _light(rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3]: factors for the brightness, larger towards one side; 128 means 1."""
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    ramp = 128 * (1 + depth * (x * np.cos(angle) + y * np.sin(angle)))
    return cv2.merge([np.clip(ramp, 0, 255).astype(np.uint8)] * 3)


def _motion(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each frame: the affine map from canvas to picture, float64 [N, 2, 3], and the head's turn, float64 [N, 2]."""
    time = np.arange(count) / FPS

    def sway(size: float) -> np.ndarray:
        waves = [np.sin(2 * np.pi * (rng.uniform(0.05, 0.4) * time + rng.uniform())) for _ in range(2)]
        return size * (waves[0] + 0.5 * waves[1])

    eyes = rng.uniform(36, 48) * (1 + sway(0.03)) / facewarp.SCALE
    aspect = np.sqrt(rng.uniform(0.92, 1.08))
    angle = np.radians(rng.uniform(-8, 8) + sway(3))
    place = np.stack([WIDTH / 2 + rng.uniform(-25, 25) + sway(6), 92 + rng.uniform(-10, 10) + sway(4)], axis=-1)
    turned = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], 1)
    linear = eyes[:, None, None] * turned * np.array([aspect, 1 / aspect])
    origin = facewarp.to_canvas(np.zeros(2))
    placements = np.concatenate([linear, (place - linear @ origin)[..., None]], axis=-1)
    turns = np.stack([rng.uniform(-0.06, 0.06) + sway(0.03), rng.uniform(-0.04, 0.04) + sway(0.02)], axis=-1)
    return placements, turns


def annotation_lines(clip: Clip) -> dict[str, list[str]]:
    """Task -> the lines of the clip's annotation file after its header, one per frame."""
    intensities, rng = clip.intensities(), clip.generators()[2]
    affect = actionunits.valence_arousal(intensities)
    expressions = actionunits.expression(intensities)
    units = actionunits.active(intensities).astype(int)
    known = {task: _annotated(clip.frames, rng) for task in affwild2.TASKS}
    return {
        "va": [f"{v:.3f},{a:.3f}" if ok else "-5,-5" for (v, a), ok in zip(affect, known["va"], strict=True)],
        "expr": [str(each) if ok else "-1" for each, ok in zip(expressions, known["expr"], strict=True)],
        "au": [",".join(map(str, row if ok else row * 0 - 1)) for row, ok in zip(units, known["au"], strict=True)],
    }


def _annotated(count: int, rng: np.random.Generator) -> np.ndarray:
    """bool [count]: which frames are annotated; all but a few short runs."""
    known = np.ones(count, bool)
    while count and (~known).mean() < UNMARKED_SHARE:
        start, length = rng.integers(count), rng.integers(3, 13)
        known[start : start + length] = False
    return known


def write(out: Path, videos: int, seconds: float | None, seed: int, workers: int | None = None) -> list[Clip]:
    """Makes the clips of `plan` in an empty or new folder; returns them. `workers`: processes, one per core if None.

    Raises UsageError if the folder is not empty, StoreError if it cannot be written.
    """
    clips = plan(videos, seconds, seed)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: name a new folder for the clips, or remove it")
    workers = min(workers or len(os.sched_getaffinity(0)), len(clips))
    try:
        _write(out, clips, workers)
    except OSError as error:
        raise StoreError(f"the clips cannot be written to {out} ({error}): make room, or name another folder") from None
    return clips


def _write(out: Path, clips: list[Clip], workers: int) -> None:
    tasks = [_folder(task, held_out) for task in affwild2.TASKS for held_out in (False, True)]
    for folder in (Path("videos"), Path("cropped_aligned"), *tasks):
        (out / folder).mkdir(parents=True)
    if workers == 1:
        for clip in clips:
            write_clip(out, clip)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=partial(cv2.setNumThreads, 1)) as pool:
        list(pool.map(partial(write_clip, out), clips))


def _folder(task: str, held_out: bool) -> Path:
    split = "Validation_Set" if held_out else "Train_Set"
    return Path("6th_ABAW_Annotations", affwild2.TASKS[task].folders[-1], split)


def write_clip(out: Path, clip: Clip) -> None:
    """Writes the clip's video, crops and annotation files."""
    crops = out / "cropped_aligned" / clip.name
    crops.mkdir()
    aligner = Aligner(Crop())
    with av.open(str(out / "videos" / f"{clip.name}.mp4"), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODING)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, (rgb, landmarks) in enumerate(frames(clip)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
            crop = simplejpeg.encode_jpeg(aligner(rgb, landmarks[None])[0], quality=95)
            (crops / f"{index + 1:05d}.jpg").write_bytes(crop)
        container.mux(stream.encode())
    for task, lines in annotation_lines(clip).items():
        text = "\n".join([affwild2.TASKS[task].header, *lines]) + "\n"
        (out / _folder(task, clip.held_out) / f"{clip.name}.txt").write_text(text)
