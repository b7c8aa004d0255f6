"""Learning curves: a picture of what the logs of a run's stages say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
WIDTH, ROW = 12.0, 2.6  # inches: the picture's width; height of a stage
LOSS, RATE, SCORES = "#1f77b4", "0.6", ("#d95f02", "#1b9e77", "#7570b3")


def draw(out: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the picture `out` of the stages whose log is beside it; nothing if none is.

    `stages`: the record of each stage, with the name of its `file`. Raises UsageError for an `out` that cannot be
    written.
    """
    found = {stage: _read((out.parent / record["file"]).with_suffix(".jsonl")) for stage, record in stages.items()}
    logs = {stage: lines for stage, lines in found.items() if lines}
    if not logs:
        return
    try:
        figure_of(logs, stages).savefig(out, dpi=DPI, format="png")
    except OSError as error:
        raise UsageError(f"the picture {out} cannot be written: {error.strerror}") from None


def figure_of(logs: Mapping[str, Sequence[Mapping[str, Any]]], stages: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row for each stage: on the left its loss and learning rate, on the right its metrics on validation videos."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, ROW * len(logs)), layout="constrained")
    grid = figure.subplots(len(logs), 2, squeeze=False)
    for (left, right), (stage, lines) in zip(grid, logs.items(), strict=True):
        _draw_loss(left, stage, lines)
        validated = [line for line in lines if line.get("metrics")]
        if validated:
            _draw_metrics(right, validated, stages[stage])
        else:
            right.set_axis_off()
            right.text(0.5, 0.5, f"{stage} was not validated on its way", ha="center", va="center", color="0.4")
    return figure


def _draw_loss(axis: Axes, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
    steps = [line["step"] for line in lines]
    rate = axis.twinx()
    rate.plot(steps, [line["lr"] for line in lines], color=RATE, linewidth=1, label="learning rate")
    rate.set_ylim(bottom=0)
    rate.tick_params(axis="y", colors=RATE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set_zorder(rate.get_zorder() + 1)
    axis.patch.set_visible(False)
    axis.plot(steps, [line["loss"] for line in lines], color=LOSS, linewidth=1.5, label="loss")
    axis.set(xlabel="step", ylabel="loss")
    axis.set_title(stage, loc="left", fontsize=10)
    handles = [*axis.get_lines(), *rate.get_lines()]
    axis.legend(handles, [str(handle.get_label()) for handle in handles], loc="upper right", frameon=False, fontsize=9)


def _draw_metrics(axis: Axes, lines: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    """The score by which weights are selected; the other metrics too if they are few, as the CCCs of two values are."""
    score, *others = sorted(lines[0]["metrics"], key=lambda name: name != record["by"])
    steps = [line["step"] for line in lines]
    for name, colour in zip([score, *others] if len(others) < len(SCORES) else [score], SCORES, strict=False):
        values = [line["metrics"][name] for line in lines]
        axis.plot(steps, [float("nan") if value is None else value for value in values], color=colour, label=name)
    axis.axvline(record["step"], color="0.4", linestyle=":", label=f"kept: step {record['step']}")
    axis.set(xlabel="step", ylabel="on validation videos")
    axis.legend(loc="best", frameon=False, fontsize=9)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []
