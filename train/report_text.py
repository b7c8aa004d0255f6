"""What `train.report` or `train.clip_report` found, as lines that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.aligned import aligned
from common.tasks import TASKS
from train import clip_report

HEADINGS = ("", "value", "95 % interval", "per video", "all labelled", "by chance")
CHANCE = {
    "ccc_valence": ("ccc",),
    "ccc_arousal": ("ccc",),
    "ccc_mean": ("ccc",),
    "f1_expression": ("expression_f1_majority", "expression_f1_random"),
    "f1_action_units": ("action_unit_f1_all_ones", "action_unit_f1_random"),
    "uar": ("uar",),
    "war": ("war",),
}
"""Metric -> the guesses of `train.metrics.Chance`, or of `train.clip_report`, for it."""


def by_chance(chance: Mapping[str, float], metric: str) -> float | None:
    """What the better guess reaches; None for a metric without one."""
    return max((chance[name] for name in CHANCE[metric]), default=None) if metric in CHANCE else None


def as_text(metrics: Mapping[str, Any]) -> str:
    """A line for each metric, then what they are counted over; empty without metrics.

    value: over labelled frames with a face; per video: the mean over videos; all labelled: frames without a face, too.
    """
    if not metrics:
        return ""
    if "confusion" in metrics:
        return clip_report.as_text(metrics)
    rows = [HEADINGS, *(_row(name, metrics) for name, value in metrics.items() if not isinstance(value, Mapping))]
    lines = aligned(rows, [column > 0 for column in range(len(HEADINGS))])
    return "\n".join([*lines, *(_counts(task, metrics) for task in TASKS if task in metrics["frames"])])


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    interval = metrics["interval_95"].get(name)
    columns = (metrics["per_video"], metrics["all_labelled"])
    return (
        name,
        _figure(metrics[name]),
        f"{_figure(interval[0])} .. {_figure(interval[1])}" if interval else "",
        *(_figure(column[name]) if name in column else "" for column in columns),
        "" if (guessed := by_chance(metrics["chance"], name)) is None else _figure(guessed),
    )


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _counts(task: str, metrics: Mapping[str, Any]) -> str:
    def of(name: str) -> int:
        found: int = metrics.get(name, {}).get(task, 0)
        return found

    said = f"{task}: {of('frames')} labelled frames with a face, of {of('videos')} videos"
    without = of("frames_all_labelled") - of("frames")
    if without:
        said += f"; {without} more without a face"
    if of("frames_left_out"):
        said += f"; {of('frames_left_out')} of tracks without any face left out"
    if of("seen_by_encoder_videos"):
        said += f"; the encoder was trained on {of('seen_by_encoder_videos')} of these videos"
    absent = metrics["absent"].get(task)
    return said + (f"; no label has {', '.join(absent)}, whose F1 is 0" if absent else "")
