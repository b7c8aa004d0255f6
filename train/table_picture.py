"""A study's table as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from train.table import Table

DPI = 150
LINE, CHARACTER = 0.3, 0.095  # inches
HEAD, STRIPE = "#dfe7ee", "#f5f7f9"


def draw(table: Table, out: Path) -> None:
    """Writes the table as PNG."""
    lines = [table.headings, *table.rows]
    widths = [max(len(line[column]) for line in lines) + 2 for column in range(len(table.headings))]
    below = [f"{note}\n" for note in table.notes]
    width = max(sum(widths), *(len(note) * 0.75 for note in table.notes)) * CHARACTER
    figure = Figure(figsize=(width, LINE * (len(lines) + len(below) + 2)), layout="constrained")
    axes, notes = figure.subplots(2, 1, height_ratios=(len(lines), len(below)))
    axes.set_title(table.title, loc="left", fontsize=11, parse_math=False)
    drawn = axes.table(
        cellText=[list(line) for line in lines],
        colWidths=[each / sum(widths) for each in widths],
        bbox=[0, 0, sum(widths) * CHARACTER / width, 1],
        cellLoc="right",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("none")
        cell.set_facecolor(HEAD if row == 0 else STRIPE if row % 2 else "white")
        cell.get_text().set(ha="left" if column < 2 else "right", parse_math=False, weight="bold" if row == 0 else None)
    notes.text(0, 1, "".join(below), va="top", fontsize=8, color="0.3", parse_math=False)
    for each in (axes, notes):
        each.axis("off")
    figure.savefig(out, dpi=DPI, format="png")
