from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from common.labels import ACTION_UNITS
from train import metrics
from train.thresholds import best, mean_f1


@given(
    st.lists(st.tuples(st.integers(0, 10), st.sampled_from([-1, 0, 1])), min_size=1, max_size=30).filter(
        lambda rows: any(label == 1 for _, label in rows)
    )
)
def test_no_other_threshold_gives_a_higher_f1(rows: list[tuple[int, int]]) -> None:
    probabilities, labels = np.array([p / 10 for p, _ in rows]), np.array([label for _, label in rows])
    found = best(probabilities[:, None], labels[:, None], ["au12"], 0.5)["au12"]

    def f1(threshold: float) -> float:
        taken = (probabilities >= threshold) & (labels >= 0)
        right = (taken & (labels == 1)).sum()
        return 2 * right / (taken.sum() + (labels == 1).sum())

    assert f1(found) == pytest.approx(max(map(f1, np.linspace(-0.025, 0.975, 41))))


def test_a_threshold_lies_between_two_probabilities_and_is_the_default_without_a_label() -> None:
    probabilities = np.array([[0.9, 0.9], [0.4, 0.8], [0.2, 0.1]])
    labels = np.array([[1, 0], [1, 0], [0, -1]])
    assert best(probabilities, labels, ["au01", "au02"], 0.5) == {"au01": pytest.approx(0.3), "au02": 0.5}


def test_the_mean_f1_has_each_unit_at_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.random((200, 12)), rng.integers(-1, 2, (200, 12))
    limits = dict(zip(ACTION_UNITS[:-1], np.linspace(0.1, 0.9, 11).tolist(), strict=True))
    expected = []
    for k, unit in enumerate(ACTION_UNITS):
        known = labels[:, k] >= 0
        expected.append(f1_score(labels[known, k], probabilities[known, k] >= limits.get(unit, 0.5)))
    assert mean_f1(probabilities, labels, limits) == pytest.approx(np.mean(expected))
    plain = metrics.measure("au", probabilities, labels)["f1_action_units"]
    assert mean_f1(probabilities, labels, best(probabilities, labels, ACTION_UNITS, 0.5)) > plain
