"""The model card says in words what the manifest says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from common.bundle.card import card
from common.bundle.manifest import complete
from common.labels import ACTION_UNITS, EXPRESSIONS

RECORD = {"sha256": "0" * 64, "size": 2_345_678}
CHANCE = {
    "ccc": 0.0,
    "expression_f1_majority": 0.05,
    "expression_f1_random": 0.11,
    "action_unit_f1_all_ones": 0.4,
    "action_unit_f1_random": 0.3,
}
FIELDS: dict[str, Any] = {
    "name": "faces",
    "encoder": {"kind": "vit", "options": {"dim": 768, "depth": 12}, "file": "encoder.safetensors"},
    "preprocess": {"crop": [8, 8, 96], "size": 224, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
    "crop": {"template": "arcface", "size": 112},
    "heads": {
        "expr": {
            "kind": "temporal",
            "options": {"windowing": {"fps": 30, "window": 300, "stride": 200}},
            "file": "expr.safetensors",
            "outputs": list(EXPRESSIONS),
        },
        "au": {
            "kind": "linear",
            "options": {"windowing": None},
            "file": "au.safetensors",
            "outputs": list(ACTION_UNITS),
            "threshold": 0.5,
        },
    },
    "recipe": {"seed": 3, "finetune": {"lr": 1e-4, "epochs": 20}},
    "data": {"dataset": "wild", "train_videos": 253, "labels": {"joined": 1200, "ambiguous": 4}, "init_sha256": None},
    "metrics": {
        "f1_expression": 0.4651,
        "f1_action_units": None,
        "f1_au01": 0.25,
        "chance": CHANCE,
        "frames": {"expr": 900},
        "interval_95": {"f1_expression": [0.41, 0.52], "per_video_ccc": [0.1, 0.2]},
    },
    "code_version": "0.1.0",
    "licence": "CC BY-NC 4.0",
    "intended_use": "research | on faces\nin video",
    "files": dict.fromkeys(("encoder.safetensors", "expr.safetensors", "au.safetensors"), RECORD),
}


def page(**changes: Any) -> str:
    return card(complete(FIELDS | changes))


@pytest.mark.parametrize(
    "line",
    [
        "* Licence: CC BY-NC 4.0",
        "| f1_expression | 0.4651 | 0.41, 0.52 | 0.11 |",
        "| f1_action_units | not defined |  | 0.4 |",
        "| f1_au01 | 0.25 |  |  |",
        "| frames.expr | 900 |",
        "| interval_95.per_video_ccc | 0.1, 0.2 |",
        "| encoder | vit, encoder.safetensors (2.3 MB) |",
        "| encoder: dim | 768 |",
        "| crop: size | 112 |",
        "| preprocessing: mean | 0.5, 0.4, 0.3 |",
        "| labels.joined | 1200 |",
        "| train_videos | 253 |",
    ],
)
def test_it_names(line: str) -> None:
    assert line in page().splitlines()


def test_it_says_of_each_head_what_it_gives_and_the_windows_that_it_takes() -> None:
    lines = page().splitlines()
    expression, units = (next(line for line in lines if line.startswith(f"| {task} |")) for task in ("expr", "au"))
    assert all(name in expression for name in EXPRESSIONS)
    assert "window 300, stride 200" in expression
    assert "present from 0.5 on | linear | single faces" in units


def test_the_recipe_is_in_it_as_yaml() -> None:
    _, recipe, _ = page().split("```")
    assert yaml.safe_load(recipe.removeprefix("yaml")) == FIELDS["recipe"]


def test_it_warns_of_metrics_on_the_videos_that_weights_were_selected_on() -> None:
    assert "select" not in page()
    assert "its metrics on them are too high" in page(recipe={"heads": {"all": {"select": "best"}}})
    assert "select: best" not in page(recipe={"heads": {"all": {"select": "last"}}}).split("## Recipe")[0]


def test_it_warns_of_metrics_on_the_videos_that_thresholds_were_tuned_on() -> None:
    assert "tuned" not in page()
    tuned = FIELDS["metrics"] | {"f1_action_units_tuned": 0.6}
    assert "`f1_action_units_tuned` is over the videos that the thresholds were tuned on" in page(metrics=tuned)


def test_what_is_not_known_is_not_shown() -> None:
    assert "init_sha256" not in page()


def test_rows_of_tables_have_as_many_cells_as_their_heads() -> None:
    cells = 0
    for line in page(name="n", data={"odd|name": "a|b\nc"}).splitlines():
        found = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert found in (cells, 0) or cells == 0
        cells = found


def test_imported_weights_are_told_with_their_publisher() -> None:
    origin = {"publisher": "somebody, https://example.org", "file": "model.hdf5", "sha256": "a" * 64}
    found = page(origin=origin, recipe={}, data={}, metrics={})
    assert f"* Published by somebody, https://example.org: `model.hdf5`, SHA-256 `{'a' * 64}`" in found
    assert "It was not measured." in found
    assert "## Recipe" not in found
