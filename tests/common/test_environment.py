"""The variables that mien reads or sets: each is named once, used, and a temporary one is gone after its block."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from common import environment
from common.environment import RAY_AUTH_TOKEN, RAY_BACKEND_LOG_LEVEL, Variable

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {name: value for name, value in vars(environment).items() if isinstance(value, Variable)}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_has_its_own_name_and_is_used(name: str) -> None:
    assert VARIABLES[name].name == name
    modules = (path for part in ("common", "ingest", "train", "score") for path in (ROOT / part).rglob("*.py"))
    users = [path for path in modules if path.name != "environment.py" and name in path.read_text("utf-8")]
    assert users, f"nothing uses {name}: take it out of common/environment.py"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = Variable("MIEN_TEST_VARIABLE", "")
    assert variable.get() is None
    monkeypatch.setenv("MIEN_TEST_VARIABLE", "")
    assert variable.get() is None
    monkeypatch.setenv("MIEN_TEST_VARIABLE", "x")
    assert variable.get() == "x"


def test_a_default_does_not_replace_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = Variable("MIEN_TEST_VARIABLE", "")
    monkeypatch.setenv("MIEN_TEST_VARIABLE", "theirs")
    variable.set_default("ours")
    assert variable.get() == "theirs"
    monkeypatch.delenv("MIEN_TEST_VARIABLE")
    variable.set_default("ours")
    assert os.environ["MIEN_TEST_VARIABLE"] == "ours"


def test_temporary_values_end_with_their_block_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    changes = {RAY_AUTH_TOKEN: "secret", RAY_BACKEND_LOG_LEVEL: "fatal"}
    with suppress(KeyboardInterrupt), environment.temporary(changes):
        assert os.environ["RAY_AUTH_TOKEN"] == "secret"
        assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "fatal"
        raise KeyboardInterrupt
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "info"
