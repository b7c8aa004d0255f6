"""Random action units for synthetic clips, and the rule that derives the labels from them.

Each frame has an intensity in [0, 1] for each of the twelve units of `common.labels.ACTION_UNITS`. The functions here
take intensities as float arrays [N, 12] for N frames; they know nothing of pictures.

The rule:
- an action unit is active if its intensity is at least `ACTIVE_FROM`;
- each expression but neutral has a prototype, the set of units that show it (`PROTOTYPES`, after the emotion prototypes
  of FACS: Ekman, Friesen and Hager, 2002). A frame has the expression whose prototype is most similar to the
  intensities (largest cosine). If the mean intensity of that prototype's units is below `EXPRESSIVE_FROM`, the face is
  neutral. So a single unit, however strong, is no expression;
- valence and arousal are weighted sums of the intensities (`VALENCE`, `AROUSAL`), clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.labels import ACTION_UNITS, EXPRESSIONS

ACTIVE_FROM = 0.3
EXPRESSIVE_FROM = 0.3

PROTOTYPES: dict[str, tuple[str, ...]] = {
    "anger": ("au04", "au07", "au23", "au24"),
    "disgust": ("au04", "au06", "au10", "au25"),
    "fear": ("au01", "au02", "au04", "au07", "au25"),
    "happiness": ("au06", "au12", "au25"),
    "sadness": ("au01", "au04", "au15"),
    "surprise": ("au01", "au02", "au25", "au26"),
    "other": ("au02", "au12", "au24"),
}
VALENCE = {"au12": 0.75, "au06": 0.25, "au04": -0.45, "au15": -0.65, "au10": -0.5, "au07": -0.2, "au24": -0.25}
CALM = -0.25
AROUSAL = {
    "au25": 0.55,
    "au26": 0.35,
    "au02": 0.35,
    "au04": 0.25,
    "au07": 0.25,
    "au12": 0.2,
    "au23": 0.2,
    "au15": -0.35,
}


def _vector(weights: Mapping[str, float]) -> np.ndarray:
    return np.array([weights.get(unit, 0.0) for unit in ACTION_UNITS], np.float32)


def valence_arousal(intensities: np.ndarray) -> np.ndarray:
    """float32 [N, 2] in [-1, 1] from intensities [N, 12]."""
    weights = np.stack([_vector(VALENCE), _vector(AROUSAL)], axis=1)
    return np.clip(intensities @ weights + np.array([0, CALM], np.float32), -1, 1).astype(np.float32)


def active(intensities: np.ndarray) -> np.ndarray:
    """bool [N, 12]: which units are active."""
    return intensities >= ACTIVE_FROM


def expression(intensities: np.ndarray) -> np.ndarray:
    """int64 [N]: index in `common.labels.EXPRESSIONS` of each frame's expression."""
    members = np.stack([_vector(dict.fromkeys(units, 1.0)) for units in PROTOTYPES.values()])
    sums = intensities @ members.T
    nearest = np.argmax(sums / np.sqrt(members.sum(1)), axis=1)
    strength = sums[np.arange(len(sums)), nearest] / members.sum(1)[nearest]
    names = np.array([EXPRESSIONS.index(name) for name in PROTOTYPES])
    return np.where(strength < EXPRESSIVE_FROM, EXPRESSIONS.index("neutral"), names[nearest])


def script(frames: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [frames, 12], intensities: expressions that rise, stay and fall, with pauses between them.

    The seven prototypes follow one another in random order, repeatedly. Single units are added at random times. All
    lengths are in frames at 30 frames/s.
    """
    intensities = np.zeros((frames, len(ACTION_UNITS)), np.float32)
    at = 0
    deck: list[str] = []
    while at < frames:
        at += int(rng.integers(5, 21))
        deck = deck or [str(name) for name in rng.permutation(list(PROTOTYPES))]
        rise, hold, fall = (int(rng.integers(*bounds)) for bounds in ((6, 16), (15, 36), (6, 16)))
        strength = rng.uniform(0.65, 1.0)
        for unit in PROTOTYPES[deck.pop()]:
            _play(intensities, unit, at, _pulse(rise, hold, fall) * min(1.0, strength * rng.uniform(0.75, 1.1)))
        at += rise + hold + fall
    for _ in range(round(frames / 80)):
        unit = ACTION_UNITS[rng.integers(len(ACTION_UNITS))]
        rise, hold, fall = (int(rng.integers(*bounds)) for bounds in ((4, 9), (3, 13), (4, 9)))
        _play(intensities, unit, int(rng.integers(frames)), _pulse(rise, hold, fall) * rng.uniform(0.4, 0.9))
    return intensities


def _pulse(rise: int, hold: int, fall: int) -> np.ndarray:
    """float32 [rise + hold + fall]: from 0 to 1, then constant, then back to 0, with smooth ends."""
    up, down = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in (rise, fall))
    return np.concatenate([up, np.ones(hold), down[::-1]]).astype(np.float32)


def _play(intensities: np.ndarray, unit: str, at: int, pulse: np.ndarray) -> None:
    """Adds a pulse to one unit's column, in place: the maximum of both counts."""
    column = intensities[at : at + len(pulse), ACTION_UNITS.index(unit)]
    np.maximum(column, pulse[: len(column)], out=column)
