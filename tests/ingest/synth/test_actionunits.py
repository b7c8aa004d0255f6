"""The written rule that turns action units into labels, and the scripts that clips play."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.labels import ACTION_UNITS, EXPRESSIONS
from ingest.synth import actionunits

intensities = arrays(np.float32, st.tuples(st.integers(1, 20), st.just(12)), elements=st.floats(0, 1, width=32))


def shown(strength: float = 0.8, *units: str) -> np.ndarray:
    return np.array([[strength if unit in units else 0.0 for unit in ACTION_UNITS]], np.float32)


def named(of: np.ndarray) -> list[str]:
    return [EXPRESSIONS[index] for index in actionunits.expression(of)]


@given(intensities)
def test_valence_and_arousal_never_leave_their_range(of):
    affect = actionunits.valence_arousal(of)
    assert affect.dtype == np.float32
    assert affect.shape == (len(of), 2)
    assert np.abs(affect).max() <= 1


@given(intensities)
def test_a_face_is_neutral_exactly_when_the_nearest_prototype_is_weak(of):
    for row, name in zip(of.astype(float), named(of), strict=True):
        units = {u: row[ACTION_UNITS.index(u)] for u in ACTION_UNITS}
        cosines = {n: sum(units[u] for u in p) / len(p) ** 0.5 for n, p in actionunits.PROTOTYPES.items()}
        best = max(cosines.values())
        nearest = [n for n, cosine in cosines.items() if cosine > best - 1e-5]
        strengths = {n: np.mean([units[u] for u in actionunits.PROTOTYPES[n]]) for n in nearest}
        possible = {n if strengths[n] > actionunits.EXPRESSIVE_FROM - 1e-5 else "neutral" for n in nearest}
        possible |= {"neutral" for n in nearest if strengths[n] < actionunits.EXPRESSIVE_FROM + 1e-5}
        assert name in possible


def test_every_expression_has_a_prototype_that_gives_its_name_at_any_strength_in_use():
    assert set(actionunits.PROTOTYPES) == set(EXPRESSIONS) - {"neutral"}
    for name, units in actionunits.PROTOTYPES.items():
        for strength in (0.5, 0.65, 1.0):
            assert named(shown(strength, *units)) == [name]


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_a_lone_unit_is_no_expression(unit):
    assert named(shown(0.85, unit)) == ["neutral"]


def test_a_resting_face_is_neutral_and_calm():
    rest = np.zeros((1, 12), np.float32)
    assert named(rest) == ["neutral"]
    assert actionunits.valence_arousal(rest).tolist() == [[0.0, -0.25]]
    assert not actionunits.active(rest).any()


def test_valence_and_arousal_are_the_sums_that_the_rule_states():
    smile = actionunits.valence_arousal(shown(0.5, "au06", "au12", "au25"))[0]
    assert smile.tolist() == pytest.approx([0.5 * (0.75 + 0.25), -0.25 + 0.5 * (0.55 + 0.2)])
    despair = actionunits.valence_arousal(shown(1.0, "au01", "au04", "au15"))[0]
    assert despair.tolist() == pytest.approx([-1.0, -0.25 + 0.25 - 0.35])


def test_a_unit_is_marked_from_the_threshold_on():
    row = np.array([[0.29, 0.3, 1.0] + [0.0] * 9], np.float32)
    assert actionunits.active(row)[0].tolist() == [False, True, True] + [False] * 9


@pytest.mark.parametrize("seed", range(20))
def test_a_script_stays_in_range_moves_smoothly_and_rests_in_between(seed):
    script = actionunits.script(320, np.random.default_rng(seed))
    assert script.shape == (320, 12)
    assert script.dtype == np.float32
    assert script.min() >= 0
    assert script.max() <= 1
    assert np.abs(np.diff(script, axis=0)).max() < 0.4
    assert 0.1 < (actionunits.expression(script) == 0).mean() < 0.7


def test_scripts_show_every_expression_and_every_unit():
    scripts = np.concatenate([actionunits.script(320, np.random.default_rng(seed)) for seed in range(12)])
    assert set(actionunits.expression(scripts)) == set(range(8))
    assert actionunits.active(scripts).any(0).all()
