"""`mien plot`: draws one video's scores over time.

There is a panel for each track. It shows the first task of `TASKS` that the model has: valence and arousal as lines,
expressions as a stacked band, or action units as a map of colours. Below it are its faces, if the lake has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from common.errors import MienError, UsageError
from common.tasks import TASKS
from score.analysis.timeline import FACES_SHOWN, Timeline, Track

DPI = 110
WIDTH, PANEL, STRIP, REST = 12.0, 2.1, 1.05, 1.7  # inches: the picture's width; heights
SHOWN_CHARACTERS = 100
SAME_TIME = 1e-3  # s: stretches that are no further apart are neighbours
LINES = {"valence": "#1f77b4", "arousal": "#d95f02"}
MEANINGS = {"valence": "-1 unpleasant, 1 pleasant", "arousal": "-1 calm, 1 excited"}
BANDS = {
    "neutral": "#bdbdbd",
    "anger": "#d62728",
    "disgust": "#6b8e23",
    "fear": "#7b3fa0",
    "happiness": "#ffc72c",
    "sadness": "#3778bf",
    "surprise": "#f58ab0",
    "other": "#8c6d57",
    "contempt": "#17a398",
    "anxiety": "#b39ddb",
    "helplessness": "#9ecae1",
    "disappointment": "#a1a86b",
}
_GAP: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.8", "hatch": "////", "linewidth": 0.5}
_LABEL_ROW = (1.04, 0.1)  # of the band's panel: from where, and how high


def draw(timeline: Timeline, out: Path) -> None:
    """Writes the picture as PNG. Raises `UsageError` where `out` cannot be written."""
    figure = figure_of(timeline)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
            figure.savefig(out, dpi=DPI, format="png")
    except OSError as error:
        raise UsageError(f"the picture {out} cannot be written: {error.strerror}, name another with --out") from None


def figure_of(timeline: Timeline) -> Figure:
    """The picture as matplotlib's figure; its axes are the panels, each with its strip of faces behind it."""
    heights = [height for track in timeline.tracks for height in ((PANEL, STRIP) if track.faces else (PANEL,))]
    figure = Figure(figsize=(WIDTH, REST + sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)
    axes = iter(grid[:, 0])
    keys: dict[str, Artist] = {}
    labelled = False
    for track in timeline.tracks:
        labelled |= _draw_track(next(axes), track, timeline, keys)
        if track.faces:
            _draw_faces(next(axes), track, timeline)
    last = grid[-1, 0]
    last.set(xlim=(timeline.start_s, timeline.end_s), xlabel="time in the video, in s")
    figure.suptitle("\n".join(_title(timeline, labelled)), x=0.01, ha="left", fontsize=11, parse_math=False)
    figure.legend(keys.values(), keys.keys(), loc="outside lower left", ncols=len(keys), frameon=False, fontsize=9)
    return figure


def _title(timeline: Timeline, labelled: bool) -> Iterable[str]:
    video = timeline.video
    yield _short(f"{video.name}, scored by {video.model}")
    datasets = " and ".join(timeline.datasets)
    if labelled:
        yield f"labels of {datasets}; where they stop, the frames have none"
    if timeline.held_out:
        yield f"held out: the video is in the validation set of {datasets}, from which mien train learns nothing"
    if timeline.frames_a_point > 1:
        yield f"each point is the mean over {timeline.frames_a_point} frames"
    if timeline.left_out:
        yield f"the {len(timeline.tracks)} longest tracks; {timeline.left_out} shorter ones are left out"


def _short(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[: SHOWN_CHARACTERS // 2 - 2]}...{text[-SHOWN_CHARACTERS // 2 + 1 :]}"


def _draw_track(axis: Axes, track: Track, timeline: Timeline, keys: dict[str, Artist]) -> bool:
    """The panel of a track, and whether it shows labels; what it shows is added to the `keys` of the legend."""
    points = track.points
    tasks = (task for task in TASKS.values() if any(column in points for column in task.columns(task.known)))
    task = next(tasks, None)
    if task is None:
        raise MienError(f"track {track.track_id} of {timeline.video.name} has faces without a prediction")
    _DRAW[task.name](axis, points, [column for column in task.columns(task.known) if column in points], keys)
    bottom, top = axis.get_ylim()
    for start, end in _gaps(points, timeline):
        axis.axvspan(start, end, zorder=0, **_GAP)
        keys["this face was not found"] = Patch(**_GAP)
    axis.set_ylim(bottom, top)
    seconds = f"{points['start_s'].iloc[0]:.1f} to {points['end_s'].iloc[-1]:.1f} s"
    axis.set_title(
        f"track {track.track_id}: {track.frames} of {timeline.frames} frames, {seconds}", loc="left", fontsize=10
    )
    return any(f"true_{label}" in points for label in task.label_columns)


def _draw_lines(axis: Axes, points: pd.DataFrame, columns: list[str], keys: dict[str, Artist]) -> None:
    for name in columns:
        x, y = _stepped(points, name)
        (keys[f"{name} ({MEANINGS[name]})"],) = axis.plot(x, y, color=LINES[name], linewidth=1.5)
        if f"true_{name}" in points:
            x, y = _stepped(points, f"true_{name}")
            (keys[f"{name} as labelled"],) = axis.plot(x, y, color=LINES[name], linewidth=2.5, alpha=0.4, zorder=1)
    axis.axhline(0, color="0.8", linewidth=0.8, zorder=0.5)
    axis.set(ylim=(-1.05, 1.05), ylabel="valence, arousal")


def _draw_bands(axis: Axes, points: pd.DataFrame, columns: list[str], keys: dict[str, Artist]) -> None:
    """The probabilities stacked, and above them a row with the labels."""
    upper: Any = 0.0
    for column in columns:
        name = column.removeprefix(TASKS["expr"].prefix)
        x, share = _stepped(points, column)
        lower, upper = upper, upper + share
        keys[name] = axis.fill_between(x, lower, upper, step="post", color=BANDS[name], linewidth=0)
    axis.set(ylim=(0, 1), ylabel="probability", yticks=[0, 0.5, 1])
    if "true_expression" in points:
        for label in points["true_expression"].dropna().unique():
            rows = points[points["true_expression"] == label]
            spans = list(zip(rows["start_s"], rows["end_s"] - rows["start_s"], strict=True))
            keys[label] = axis.broken_barh(spans, _LABEL_ROW, color=BANDS[label])
        axis.set_ylim(0, sum(_LABEL_ROW) + 0.02)
        axis.set_yticks([0, 0.5, 1, _LABEL_ROW[0] + _LABEL_ROW[1] / 2], ["0.0", "0.5", "1.0", "label"])


def _draw_units(axis: Axes, points: pd.DataFrame, columns: list[str], keys: dict[str, Artist]) -> None:
    """A row of colours for each action unit, with a line below it where it is labelled as active."""
    for row, name in enumerate(reversed(columns)):
        x, y = _stepped(points, name)
        mesh = axis.pcolormesh(x, [row, row + 1], np.ma.masked_invalid(y[None, :-1]), vmin=0, vmax=1, cmap="viridis")
        if f"true_{name}" in points:
            active = points[points[f"true_{name}"] >= 0.5]
            axis.hlines(np.full(len(active), row + 0.1), active["start_s"], active["end_s"], color="red", linewidth=1.5)
            keys["labelled as active"] = Line2D([], [], color="red", linewidth=1.5)
    axis.set(ylim=(0, len(columns)), yticks=np.arange(len(columns)) + 0.5)
    axis.set_yticklabels([name.upper() for name in reversed(columns)], fontsize=6)
    axis.figure.colorbar(mesh, ax=axis, label="probability", pad=0.01)


_DRAW = {"va": _draw_lines, "expr": _draw_bands, "au": _draw_units}


def _draw_faces(axis: Axes, track: Track, timeline: Timeline) -> None:
    """The track's face in each slot of time that has one, below the name of its expression."""
    width = (timeline.end_s - timeline.start_s) / FACES_SHOWN
    for slot, crop, expression in track.faces:
        left = timeline.start_s + slot * width
        axis.imshow(crop, extent=(left + 0.02 * width, left + 0.98 * width, 0, 1), aspect="auto")
        if expression:
            axis.text(left + width / 2, 1.06, expression, ha="center", va="bottom", fontsize=8)
    axis.set(ylim=(0, 1.25), yticks=[])
    axis.spines[["top", "left", "right"]].set_visible(False)


def _stepped(points: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the stretches and the column's values from each edge on; NaN from the end of one before a gap."""
    starts, ends = points["start_s"].to_numpy(), points["end_s"].to_numpy()
    values = points[column].to_numpy(np.float64)
    last = np.append(starts[1:] - ends[:-1] > SAME_TIME, True)
    # After the last stretch before a gap come two more points at its end: its value again, then NaN.
    order = np.sort(np.concatenate([np.arange(len(points)), *2 * [np.flatnonzero(last)]]), kind="stable")
    nth = np.arange(len(order)) - np.searchsorted(order, order)
    return np.where(nth == 0, starts[order], ends[order]), np.where(nth == 2, np.nan, values[order])


def _gaps(points: pd.DataFrame, timeline: Timeline) -> list[tuple[float, float]]:
    """The times without a stretch, those at the ends of the video included."""
    starts = np.append(points["start_s"], timeline.end_s)
    ends = np.append(timeline.start_s, points["end_s"])
    return [(end, start) for end, start in zip(ends, starts, strict=True) if start - end > SAME_TIME]
