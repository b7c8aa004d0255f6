"""The short options of the commands that look for faces set keys of `ingest.faces.FacesOptions`, and nothing else."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from ingest.faces import FacesOptions
from ingest.options import face_options


def given(*arguments: str) -> Any:
    """What a command with these options gets, or the message it ends with."""
    got = []

    @click.command()
    @face_options
    def command(faces: dict[str, Any]) -> None:
        got.append(faces)

    result = CliRunner().invoke(command, arguments)
    return got[0] if got else result.output


def test_only_what_was_given_is_set() -> None:
    assert given() == {}
    assert given("--every", "2") == {"decode": {"every": 2}}


def test_each_option_sets_its_key() -> None:
    options = FacesOptions.model_validate(given("--detector", "mtcnn", "--min-face", "48", "--max-faces", "3"))
    assert (options.detector.name, options.detector.min_face, options.detector.max_faces) == ("mtcnn", 48, 3)


@pytest.mark.parametrize("wrong", [("--min-face", "3"), ("--max-faces", "0")])
def test_a_value_out_of_range_is_refused_by_name(wrong: tuple[str, str]) -> None:
    assert f"Invalid value for '{wrong[0]}'" in given(*wrong)
