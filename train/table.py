"""The table of a study: what its runs reached, by variant and fold, beside what was published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from common.aligned import aligned
from train.metrics import with_mean
from train.report_text import by_chance
from train.study import Run, Study

Columns = Mapping[str, str]
"""Heading of a column -> the metric that it shows."""
MISSING = "-"
EXPLAINED = {
    "ccc_valence": "Concordance (CCC) for valence and arousal, macro-F1 of 8 expressions, mean F1 of 12 action units "
    "at 0.5.",
    "uar": "UAR: mean over the classes of the share of clips that was recognised. WAR: that share of all clips.",
}
"""Metric -> a note for tables that show it."""


@dataclass(frozen=True)
class Table:
    """Headings, and rows of cells as they are shown; `notes` belong below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """The table in columns of equal width."""
        lines = aligned([self.headings, *self.rows], [column >= 2 for column in range(len(self.headings))])
        return "\n".join([self.title, *lines, *self.notes])

    def as_markdown(self) -> str:
        """The table as GitHub's Markdown."""
        ruler = ["---" if column < 2 else "---:" for column in range(len(self.headings))]
        lines = ["| " + " | ".join(line) + " |" for line in (self.headings, ruler, *self.rows)]
        return "\n".join([f"# {self.title}", "", *lines, "", *(f"- {note}" for note in self.notes), ""])


def made(study: Study, metrics: Mapping[Run, Mapping[str, Any]]) -> Table:
    """The table of these runs' metrics; a run that is not among them shows `-`."""
    columns = study.columns
    rows: list[tuple[str, ...]] = []
    for name, variant in study.variants.items():
        by_fold = {
            fold: [metrics[run] for run in study.runs() if (run.variant, run.fold) == (name, fold) and run in metrics]
            for fold in variant.folds
        }
        for fold, found in by_fold.items():
            rows.append((variant.title, str(fold), *_cells(found, variant.published.get(fold), columns)))
        if len(by_fold) > 1 and all(by_fold.values()):
            every = [each for found in by_fold.values() for each in found]
            rows.append((variant.title, "mean", *_cells(every, variant.published.get("mean"), columns)))
    if metrics:
        chance = _shown(_by_chance(metrics.values(), columns))
        rows.append(("by chance", "", *chance, *[MISSING] * len(columns)))
    headings = ["model", "fold", *columns, *(f"published {name}" for name in columns)]
    kept = [n for n in range(len(headings)) if n < 2 + len(columns) or any(row[n] != MISSING for row in rows)]
    lines = [tuple(line[n] for n in kept) for line in (headings, *rows)]
    return Table(study.title, lines[0], tuple(lines[1:]), tuple(_notes(study, metrics)))


def _cells(found: Sequence[Mapping[str, Any]], published: Mapping[str, float] | None, columns: Columns) -> list[str]:
    reached, stated = _reached(found, columns), _reached([published] if published else [], columns)
    return [*_shown(reached), *_shown(stated)]


def _reached(runs: Iterable[Mapping[str, Any]], columns: Columns) -> dict[str, list[float]]:
    """By column, the values of all runs that have its metrics."""
    found: dict[str, list[float]] = {heading: [] for heading in columns}
    for metrics in map(with_mean, runs):
        for heading, metric in columns.items():
            if metrics.get(metric) is not None:
                found[heading].append(metrics[metric])
    return found


def _shown(columns: Mapping[str, Sequence[float]]) -> list[str]:
    """A cell for each column: the mean, and the standard deviation over several seeds or folds."""
    return [_cell(values) for values in columns.values()]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _by_chance(runs: Iterable[Mapping[str, Any]], columns: Columns) -> dict[str, list[float]]:
    """What the better of the guesses of `train.metrics.Chance` reaches, in the mean over all runs."""
    found: dict[str, list[float]] = {heading: [] for heading in columns}
    for chance in (metrics["chance"] for metrics in runs if "chance" in metrics):
        for heading, metric in columns.items():
            found[heading].append(by_chance(chance, metric) or 0.0)
    return {heading: [fmean(values)] if values else [] for heading, values in found.items()}


def _notes(study: Study, metrics: Mapping[Run, Mapping[str, Any]]) -> Iterable[str]:
    yield from (note for metric, note in EXPLAINED.items() if metric in study.columns.values())
    if len(study.seeds) > 1:
        yield f"Mean ± standard deviation over the seeds {', '.join(map(str, study.seeds))}; of means, over all runs."
    elif any(len(variant.folds) > 1 for variant in study.variants.values()):
        yield "Mean ± standard deviation over the folds."
    seen = [run.name for run, found in metrics.items() if any(found.get("seen_by_encoder_videos", {}).values())]
    if seen:
        yield f"The encoder was trained on videos that validate: {', '.join(seen)}."
    selected = [name for name in study.variants if _selects_on_test(study, name)]
    if selected:
        yield f"Weights were selected on the videos that are measured, as the publication did: {', '.join(selected)}."
    missing = [run.name for run in study.runs() if run not in metrics]
    if missing:
        yield f"Not trained yet: {', '.join(missing)}."
    yield f"Published: {study.source}"


def _selects_on_test(study: Study, variant: str) -> bool:
    clips = Run(study, variant, study.variants[variant].folds[0], study.seeds[0]).recipe().clips
    return clips is not None and clips.select == "test"
