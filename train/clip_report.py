"""What is measured of a model's predictions for whole clips: UAR, WAR, and which classes it confuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train import bootstrap
from train.metrics import confusion, measure

TITLES = {"uar": "UAR", "war": "WAR"}


def report(
    values: NDArray[np.float64], labels: NDArray[np.int64], video: NDArray[np.integer], classes: Sequence[str]
) -> dict[str, Any]:
    """All that is measured of n clips, by name; empty without clips.

    values: [n, K]; labels: [n], places in the K classes; video: [n]. uar, war: of `train.metrics`. interval_95: where
    they lie when videos are drawn again (`train.bootstrap`). chance: what guessing reaches, by drawing classes for the
    UAR and by always naming the most frequent one for the WAR. clips, videos: how many these are. confusion: by class,
    how many of its clips were taken for which. absent: classes that no clip has, which do not count.
    """
    if not len(labels):
        return {}
    counts = np.bincount(labels, minlength=len(classes))
    confused = confusion(values.argmax(axis=1), labels, len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    intervals = bootstrap.intervals("clips", values, labels, video)
    return {
        **measure("clips", values, labels),
        "interval_95": {name: each and list(each) for name, each in intervals.items()},
        "chance": {"uar": 1 / int((counts > 0).sum()), "war": float(counts.max() / counts.sum())},
        "clips": {"expr": len(labels)},
        "videos": {"expr": len(np.unique(video))},
        "absent": {"expr": absent} if absent else {},
        "confusion": {
            name: dict(zip(classes, row.tolist(), strict=True)) for name, row in zip(classes, confused, strict=True)
        },
    }


def shares(confused: Mapping[str, Mapping[str, int]]) -> NDArray[np.float64]:
    """The confusion as float64 [K, K]: which share of the clips of a class (row) was taken for which (column)."""
    counts = np.array([list(row.values()) for row in confused.values()], np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def as_text(metrics: Mapping[str, Any]) -> str:
    """A line for each metric, then the confusion in per cent of the clips of each class."""
    return "\n".join(_lines(metrics))


def _lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name, title in TITLES.items():
        interval = metrics["interval_95"].get(name)
        sure = f"  95 % interval {interval[0]:.3f} .. {interval[1]:.3f}" if interval else ""
        yield f"{title} {metrics[name]:.3f}{sure}  by chance {metrics['chance'][name]:.3f}"
    yield f"{metrics['clips']['expr']} clips of {metrics['videos']['expr']} videos"
    if metrics["absent"]:
        yield f"no clip shows {', '.join(metrics['absent']['expr'])}, which do not count"
    names = list(metrics["confusion"])
    width = max(len(name) for name in names)
    yield "clips of a class (rows) by what they were taken for, %"
    yield " " * width + "".join(f"  {name[:5]:>5}" for name in names)
    for name, row in zip(names, 100 * shares(metrics["confusion"]), strict=True):
        yield f"{name:<{width}}" + "".join(f"  {share:5.0f}" for share in row)
