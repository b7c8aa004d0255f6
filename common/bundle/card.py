"""`MODEL_CARD.md`: what a bundle's manifest says, as a page for people (Mitchell et al. 2019, "Model Cards").

Everything on the page comes from the manifest, so the page adds nothing to a bundle's id and can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from common.bundle.manifest import BundleManifest

CARD = "MODEL_CARD.md"

_CHANCE = {
    "ccc": ("ccc",),
    "f1_expression": ("expression_f1_majority", "expression_f1_random"),
    "f1_action_units": ("action_unit_f1_all_ones", "action_unit_f1_random"),
    "uar": ("uar",),
    "war": ("war",),
}
"""By the beginning of a metric's name: the chance levels of which the highest is what guessing reaches."""

_LIMITS = (
    "It describes what a face shows in a picture, as annotators of the training data would have labelled it. It does "
    "not say what a person feels, means or intends.",
    "It carries the biases of its training data: of the people in it, of their faces, skin, age and culture, and of "
    "those who annotated it.",
    "The metrics hold for videos like those it was measured on. On others they may be far lower: measure it on "
    "labelled videos of your own before you rely on it.",
    "It was trained on aligned faces of the crop and the preprocessing below, and takes no others.",
)


def card(manifest: BundleManifest) -> str:
    """The page, in Markdown."""
    return "\n".join(_lines(manifest))


def _lines(manifest: BundleManifest) -> Iterator[str]:
    origin = manifest.origin
    yield f"# {manifest.name}\n"
    written = f"written by mien {manifest.code_version}" if origin is None else "imported by mien"
    yield f"Bundle `{manifest.id}`, {written}.\n"
    yield f"* Intended use: {manifest.intended_use}"
    yield f"* Licence: {manifest.licence}"
    if origin is not None:
        yield f"* Published by {origin.publisher}: `{origin.file}`, SHA-256 `{origin.sha256}`"
    yield "\n## Limits\n"
    yield from (f"* {limit}" for limit in _LIMITS)
    if (manifest.recipe.get("clips") or {}).get("select") == "test":
        yield (
            "* Weights were selected on the very videos that it was measured on (`select: test`, as DFER-CLIP's code "
            "does), so its metrics are too high."
        )
    if _selects({key: value for key, value in manifest.recipe.items() if key != "clips"}):
        yield "* Weights were selected on the validation videos (`select: best`), so its metrics on them are too high."
    if "f1_action_units_tuned" in manifest.metrics:
        yield "* `f1_action_units_tuned` is over the videos that the thresholds were tuned on, so it is too high."
    yield "\n## What it gives\n"
    yield from _table(("task", "values", "head", "windows", "file"), _heads(manifest))
    yield "\n## What it takes\n"
    yield from _table(("", ""), _inputs(manifest))
    yield "\n## Metrics\n"
    yield from _metrics(manifest.metrics)
    yield "\n## Data\n"
    yield from _table(("", ""), _flat(manifest.data)) if manifest.data else ["The manifest says nothing of the data."]
    if manifest.recipe:
        yield "\n## Recipe\n"
        yield f"```yaml\n{yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True).strip()}\n```"
    yield ""


def _selects(recipe: Mapping[str, Any]) -> bool:
    """Whether a stage of the recipe kept the weights that were best on the validation videos."""
    return any(
        value == "best" if key == "select" else isinstance(value, Mapping) and _selects(value)
        for key, value in recipe.items()
    )


def _heads(manifest: BundleManifest) -> Iterator[tuple[str, ...]]:
    for task, head in manifest.heads.items():
        windowing = head.options.get("windowing")
        windows = "single faces"
        if windowing:
            windows = ", ".join(f"{key} {value}" for key, value in windowing.items())
        values = ", ".join(head.outputs) + ("" if head.threshold is None else f"; present from {head.threshold} on")
        yield task, values, head.kind, windows, _file(manifest, head.file)


def _inputs(manifest: BundleManifest) -> Iterator[tuple[str, str]]:
    yield "encoder", f"{manifest.encoder.kind}, {_file(manifest, manifest.encoder.file)}"
    yield from ((f"encoder: {key}", value) for key, value in _flat(manifest.encoder.options))
    yield from ((f"crop: {key}", value) for key, value in _flat(manifest.crop.model_dump(mode="json")))
    yield from ((f"preprocessing: {key}", value) for key, value in _flat(manifest.preprocess.model_dump(mode="json")))


def _file(manifest: BundleManifest, name: str) -> str:
    return f"{name} ({manifest.files[name].size / 1e6:.1f} MB)"


def _metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    """A table of the metrics with their intervals, beside what guessing reaches, and one of what else was counted."""
    single = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    if not single:
        yield "It was not measured."
        return
    chance, intervals = metrics.get("chance", {}), metrics.get("interval_95", {})
    yield from _table(
        ("metric", "value", "95 % interval", "guessing"),
        (
            (name, _text(value), _text(intervals.get(name, "")), _text(_guessed(name, chance)))
            for name, value in single.items()
        ),
    )
    if confused := metrics.get("confusion"):
        yield "\nClips of each class, by what they were taken for:\n"
        yield from _table(
            ("", *confused), ((name, *(str(count) for count in row.values())) for name, row in confused.items())
        )
    shown = ("chance", "confusion")
    others = {name: value for name, value in metrics.items() if isinstance(value, Mapping) and name not in shown}
    others |= {"interval_95": {name: value for name, value in intervals.items() if name not in single}}
    rows = list(_flat(others))
    if rows:
        yield ""
        yield from _table(("", ""), rows)


def _guessed(metric: str, chance: Mapping[str, float]) -> float | str:
    """What guessing without looking at a face reaches; nothing is known of the F1 of a single action unit."""
    keys = next((keys for start, keys in _CHANCE.items() if metric.startswith(start)), ())
    return max((chance[key] for key in keys if key in chance), default="")


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Keys with dots and values of nested mappings, without those that are None or empty."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value not in (None, "", [], ()):
            yield f"{above}{key}", _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"
