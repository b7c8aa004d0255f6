from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from common.errors import MienError
from common.labels import ACTION_UNITS
from train import metrics


def test_ccc_is_lins_formula_over_the_annotated_frames() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.1, 0.3, 5000), rng.normal(0.2, 0.5, 5000)
    y[100:300] = np.nan
    known = ~np.isnan(y)
    a, b = x[known], y[known]
    expected = 2 * ((a - a.mean()) * (b - b.mean())).mean() / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert math.isclose(metrics.ccc(x, y), expected, abs_tol=1e-12)


def test_ccc_is_one_for_the_truth_and_zero_for_a_constant() -> None:
    y = np.linspace(-1, 1, 50)
    assert math.isclose(metrics.ccc(y, y), 1)
    assert math.isclose(metrics.ccc(np.full(50, 0.3), y), 0, abs_tol=1e-12)
    assert math.isclose(metrics.ccc(1e-3 * y + 0.9, 1e-3 * y + 0.9), 1)
    assert math.isnan(metrics.ccc([], []))


@pytest.mark.parametrize("n", [1, 3, 7, 10, 100, 1001])
def test_ccc_of_a_constant_with_itself_is_not_defined_however_its_mean_is_rounded(n: int) -> None:
    assert math.isnan(metrics.ccc(np.full(n, 0.3), np.full(n, 0.3)))
    assert metrics.ccc(np.full(n, 0.3), np.full(n, 0.5)) == pytest.approx(0)


def test_expression_f1_is_scikit_learns_macro_f1_over_eight_classes_though_some_are_absent() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 6, 400), rng.integers(0, 7, 400)
    labels[:30] = -1
    known = labels >= 0
    expected = f1_score(labels[known], predicted[known], labels=range(8), average="macro", zero_division=0)
    assert math.isclose(metrics.expression_f1(predicted, labels), expected)


def test_action_unit_f1_counts_a_probability_of_one_half_as_active() -> None:
    rng = np.random.default_rng(2)
    probabilities, labels = rng.random((300, 12)), rng.integers(-1, 2, (300, 12))
    probabilities[0], labels[0] = 0.5, 1
    found = metrics.action_unit_f1s(probabilities, labels)
    for k, unit in enumerate(ACTION_UNITS):
        known = labels[:, k] >= 0
        assert math.isclose(found[unit], f1_score(labels[known, k], probabilities[known, k] >= 0.5))
    mean = metrics.measure("au", probabilities, labels)["f1_action_units"]
    assert math.isclose(mean, np.mean(list(found.values())))


@pytest.mark.parametrize(("task", "width"), [("va", 2), ("expr", 8), ("au", 12)])
def test_predictions_that_are_not_finite_are_refused_and_not_counted_as_a_class(task: str, width: int) -> None:
    predictions = np.full((5, width), 0.5)
    predictions[3, 1] = np.nan
    targets = np.zeros(5, int) if task == "expr" else np.zeros((5, width))
    with pytest.raises(MienError, match=f"^1 of 5 predictions of {task} are not finite"):
        metrics.measure(task, predictions, targets)


def test_chance_is_what_blind_guesses_reach() -> None:
    rng = np.random.default_rng(3)
    n = 200_000
    expressions = rng.choice(8, n, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0])
    frequencies = np.linspace(0.05, 0.6, 12)
    units = (rng.random((n, 12)) < frequencies).astype(int)
    expressions[:1000], units[1000:3000] = -1, -1
    found = metrics.chance(expressions, units)
    assert found.ccc == 0
    majority = metrics.expression_f1(np.zeros(n, int), expressions)
    assert found.expression_f1_majority == pytest.approx(majority)
    drawn = metrics.expression_f1(rng.integers(0, 8, n), expressions)
    assert found.expression_f1_random == pytest.approx(drawn, abs=0.005)
    ones = metrics.measure("au", np.ones((n, 12)), units)["f1_action_units"]
    assert found.action_unit_f1_all_ones == pytest.approx(ones)
    drawn = metrics.measure("au", (rng.random((n, 12)) < frequencies).astype(float), units)["f1_action_units"]
    assert found.action_unit_f1_random == pytest.approx(drawn, abs=0.005)
