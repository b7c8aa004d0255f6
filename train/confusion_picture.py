"""Which classes a model of clips confuses, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UsageError
from train.clip_report import TITLES, shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
MARGIN, CELL = 2.2, 0.62  # inches
DARK = 0.5  # a share from which on its figure is white


def draw(metrics: Mapping[str, Any], out: Path) -> None:
    """Writes the picture `out`, a PNG file. Raises UsageError if it cannot be written."""
    try:
        figure_of(metrics).savefig(out, dpi=DPI, format="png")
    except OSError as error:
        raise UsageError(f"the picture {out} cannot be written: {error.strerror}") from None


def figure_of(metrics: Mapping[str, Any]) -> Figure:
    """A square for each pair of classes, with the share of the row's clips in per cent, as darker as it is larger."""
    from matplotlib.figure import Figure

    names, part = list(metrics["confusion"]), shares(metrics["confusion"])
    side = MARGIN + CELL * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(part, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="taken for", ylabel="shown")
    for row, column in [(i, j) for i in range(len(names)) for j in range(len(names))]:
        share = part[row, column]
        colour = "white" if share > DARK else "0.2"
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    title = ", ".join(f"{title} {metrics[name]:.3f}" for name, title in TITLES.items())
    axis.set_title(f"{title} · {metrics['clips']['expr']} clips, %", loc="left", fontsize=10)
    return figure
