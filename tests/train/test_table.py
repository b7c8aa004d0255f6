"""The table of a study, from metrics that are given here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from train import table
from train.study import Study
from train.table_picture import draw

CHANCE = {
    "ccc": 0.0,
    "expression_f1_majority": 0.05,
    "expression_f1_random": 0.1,
    "action_unit_f1_all_ones": 0.4,
    "action_unit_f1_random": 0.3,
}


def study(**changes: Any) -> Study:
    variants = {
        "full": {"title": "whole model", "folds": (0, 1), "published": {0: {"ccc_valence": 0.5, "ccc_arousal": 0.6}}},
        "no-tcn": {"title": "without TCN", "set": ("heads.temporal.model.channels=[]",)},
    }
    fields = {"name": "toy", "title": "A toy", "source": "a paper", "recipe": "demo", "variants": variants}
    return Study.model_validate(fields | changes)


def metrics(valence: float, expression: float | None = 0.3) -> dict[str, Any]:
    return {
        "ccc_valence": valence,
        "ccc_arousal": valence + 0.2,
        "f1_expression": expression,
        "f1_action_units": 0.5,
        "chance": CHANCE,
    }


def cells(made: table.Table, row: int) -> dict[str, str]:
    return dict(zip(made.headings, made.rows[row], strict=True))


def test_a_row_has_what_a_run_reached_and_what_was_published() -> None:
    wanted = study()
    full, other, without = wanted.runs()
    made = table.made(wanted, {full: metrics(0.1), other: metrics(0.3), without: metrics(0.2)})
    assert cells(made, 0) == {
        "model": "whole model",
        "fold": "0",
        "valence": "0.100",
        "arousal": "0.300",
        "mean VA": "0.200",
        "expression": "0.300",
        "action units": "0.500",
        "published valence": "0.500",
        "published arousal": "0.600",
        "published mean VA": "0.550",
    }
    assert [row[:2] for row in made.rows] == [
        ("whole model", "0"),
        ("whole model", "1"),
        ("whole model", "mean"),
        ("without TCN", "0"),
        ("by chance", ""),
    ]


def test_the_mean_of_folds_has_their_spread() -> None:
    wanted = study()
    full, other, _ = wanted.runs()
    made = table.made(wanted, {full: metrics(0.1), other: metrics(0.3)})
    assert cells(made, 2)["valence"] == "0.200 ± 0.141"  # (.2 / 2 ** .5)


def test_several_seeds_of_a_run_are_one_row_with_their_spread() -> None:
    wanted = study(seeds=(0, 1))
    runs = [run for run in wanted.runs() if (run.variant, run.fold) == ("full", 0)]
    assert [run.name for run in runs] == ["full-fold0-seed0", "full-fold0-seed1"]
    made = table.made(wanted, dict(zip(runs, (metrics(0.1), metrics(0.3)), strict=True)))
    assert cells(made, 0)["valence"] == "0.200 ± 0.141"


def test_a_run_that_is_missing_is_named_and_has_no_numbers() -> None:
    wanted = study()
    full, *_ = wanted.runs()
    made = table.made(wanted, {full: metrics(0.1)})
    assert cells(made, 1)["valence"] == table.MISSING
    assert any("full-fold1, no-tcn-fold0" in note for note in made.notes)


def test_a_metric_that_is_not_defined_has_no_number() -> None:
    wanted = study()
    full, *_ = wanted.runs()
    assert cells(table.made(wanted, {full: metrics(0.1, None)}), 0)["expression"] == table.MISSING


def test_chance_is_the_better_of_the_guesses() -> None:
    wanted = study()
    full, *_ = wanted.runs()
    made = table.made(wanted, {full: metrics(0.1)})
    last = cells(made, len(made.rows) - 1)
    assert (last["model"], last["valence"], last["expression"], last["action units"]) == (
        "by chance",
        "0.000",
        "0.100",
        "0.400",
    )


def test_a_study_names_the_columns_of_its_table_and_what_was_published_of_all_folds() -> None:
    wanted = study(
        recipe="dfer-clip",
        columns={"UAR": "uar", "WAR": "war"},
        variants={
            "full": {"title": "whole", "folds": (0, 1), "published": {"mean": {"uar": 0.6, "war": 0.7}}},
            "best": {"title": "tested", "set": ("clips.select=test",)},
        },
    )
    full, other, _ = wanted.runs()
    chance = {"uar": 1 / 7, "war": 0.4}
    reached = {full: {"uar": 0.5, "war": 0.6, "chance": chance}, other: {"uar": 0.4, "war": 0.6, "chance": chance}}
    made = table.made(wanted, reached)
    assert made.headings == ("model", "fold", "UAR", "WAR", "published UAR", "published WAR")
    assert cells(made, 0)["published UAR"] == table.MISSING
    assert made.rows[2] == ("whole", "mean", "0.450 ± 0.071", "0.600 ± 0.000", "0.600", "0.700")
    assert made.rows[-1] == ("by chance", "", "0.143", "0.400", "-", "-")
    assert made.notes[0].startswith("UAR: mean over the classes")
    assert "selected on the videos that are measured, as the publication did: best" in " ".join(made.notes)


@pytest.fixture
def shown() -> table.Table:
    wanted = study()
    return table.made(wanted, {run: metrics(0.1) for run in wanted.runs()})


def test_as_text_all_lines_of_the_table_are_aligned(shown: table.Table) -> None:
    lines = shown.as_text().splitlines()[1 : 2 + len(shown.rows)]
    end = lines[0].index("valence") + len("valence")
    assert {line[end - 5 : end] for line in lines[1:]} == {"0.100", "0.000"} | {lines[3][end - 5 : end]}


def test_as_markdown_each_row_has_as_many_cells_as_the_headings(shown: table.Table) -> None:
    lines = [line for line in shown.as_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == len(shown.rows) + 2
    assert {line.count("|") for line in lines} == {len(shown.headings) + 1}


def test_the_picture_has_something_in_every_row(shown: table.Table, tmp_path: Path) -> None:
    draw(shown, tmp_path / "table.png")
    picture = cv2.imread(str(tmp_path / "table.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    dark = (picture < 100).any(axis=1)
    bands = int((dark[1:] & ~dark[:-1]).sum())
    assert bands >= len(shown.rows) + 2  # the title, the headings and each row
