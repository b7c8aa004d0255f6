"""The page of options: every key of every command, as its configuration has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from common import config
from common.config import Config
from common.options_page import Chapter, sections, to_markdown
from score.config import ScoreConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "options.md").read_text()
ROWS = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
KEYS = [row for row in ROWS if row[0] != "key"]


def test_the_page_of_options_is_generated_from_the_configurations() -> None:
    spec = importlib.util.spec_from_file_location("options_of_commands", ROOT / "docs" / "options.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.page() == PAGE, "run `make docs`"


@pytest.mark.parametrize("row", KEYS, ids=lambda row: row[0])
def test_every_key_has_values_a_default_and_a_meaning(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row), row


@pytest.mark.parametrize("row", [row for row in KEYS if row[0].startswith("faces.")], ids=lambda row: row[0])
def test_a_default_that_is_set_as_it_is_written_changes_nothing(row: list[str]) -> None:
    key, _, default, _ = row
    assert config.load(ScoreConfig, None, [f"{key}={default}"]) == ScoreConfig()


def test_the_defaults_of_a_section_are_those_that_it_stands_with() -> None:
    class Inner(Config):
        size: int = 3
        name: str | None = None

    class Outer(Config):
        inner: Inner = Inner(size=5)
        off: Inner | None = None
        some: tuple[int, ...] = (1, 2)

    found = {row[0]: row[1:3] for _, _, rows in sections(Outer) for row in rows}
    assert found == {
        "off": ("a section, or null", "null"),
        "some": ("list of whole numbers", "[1, 2]"),
        "inner.size": ("whole number", "5"),
        "inner.name": ("text or null", "null"),
        "off.size": ("whole number", "3"),
        "off.name": ("text or null", "null"),
    }
    assert yaml.safe_load(found["some"][1]) == [1, 2]


def test_a_chapter_leaves_out_the_sections_of_another() -> None:
    class Inner(Config):
        size: int = 3

    class Outer(Config):
        inner: Inner = Inner()
        speed: float = 1.5

    page = to_markdown("T", "I", [Chapter("H", "S", Outer, without=("inner",))])
    assert "speed" in page
    assert "size" not in page
