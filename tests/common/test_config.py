"""Configuration in layers, and what a person reads when a key or a value is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from common.config import Config, digest, load
from common.errors import UsageError


class Detector(Config):
    name: Literal["mtcnn", "retinaface"] = "mtcnn"
    min_face: int = 20
    threshold: float = 0.5


class Faces(Config):
    detector: Detector = Detector()
    every: int = 1


class Job(Config):
    faces: Faces = Faces()
    tasks: tuple[str, ...] = ("va",)
    learning_rate: float = 1e-3
    note: str | None = None


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(
        "# ours\nfaces:\n  every: 2\n  detector:\n    min_face: 30\n    threshold: 0.6\ntasks: [expr, au]\n"
    )
    return file


def test_defaults_hold_where_nothing_is_said() -> None:
    assert load(Job, None, []) == Job()


def test_overrides_beat_the_commands_options_which_beat_the_file_which_beats_defaults(yaml_file: Path) -> None:
    options = {"faces": {"detector": {"min_face": 40, "threshold": 0.7}}}
    job = load(Job, yaml_file, ["faces.detector.min_face=50"], options)
    assert job.faces.detector == Detector(name="mtcnn", min_face=50, threshold=0.7)
    assert job.faces.every == 2
    assert job.tasks == ("expr", "au")
    assert options == {"faces": {"detector": {"min_face": 40, "threshold": 0.7}}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learning_rate=1e-4", {"learning_rate": 1e-4}),  # YAML 1.1 reads this as a text
        ("learning_rate=3", {"learning_rate": 3.0}),
        ("tasks=[au, expr]", {"tasks": ("au", "expr")}),
        ("note=a=b", {"note": "a=b"}),
        ("note='2024'", {"note": "2024"}),
        ("note=", {"note": None}),
    ],
)
def test_an_overrides_value_is_read_as_yaml(override: str, expected: dict[str, object]) -> None:
    assert load(Job, None, [override]) == Job.model_validate(expected)


def test_an_unknown_key_of_a_file_is_named_with_its_line_and_the_nearest_known_key(yaml_file: Path) -> None:
    yaml_file.write_text("faces:\n  detector:\n    min_fcae: 30\n")
    with pytest.raises(UsageError) as error:
        load(Job, yaml_file, [])
    assert str(error.value) == (
        f"unknown key 'faces.detector.min_fcae': did you mean 'faces.detector.min_face'? (in {yaml_file}, line 3)"
    )


@pytest.mark.parametrize(
    ("override", "near"),
    [("faces.evry=2", "faces.every"), ("min_face=3", "faces.detector.min_face"), ("task=[va]", "tasks")],
)
def test_an_unknown_key_of_the_command_line_is_named_with_the_nearest_known_key(override: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"^unknown key '.*': did you mean '{near}'\? \(on the command line\)$"):
        load(Job, None, [override])


def test_no_key_is_suggested_for_one_that_resembles_none() -> None:
    with pytest.raises(UsageError, match=r"^unknown key 'zzz' \(on the command line\)$"):
        load(Job, None, ["zzz=1"])


def test_a_value_of_the_wrong_type_is_one_sentence_with_its_key_and_place(yaml_file: Path) -> None:
    yaml_file.write_text("faces:\n  every: often\n")
    with pytest.raises(UsageError) as error:
        load(Job, yaml_file, [])
    message = str(error.value)
    assert message.startswith("'faces.every' should be a valid integer")
    assert message.endswith(f"not 'often' (in {yaml_file}, line 2)")
    assert "\n" not in message


def test_an_override_is_blamed_rather_than_the_file_it_overrides(yaml_file: Path) -> None:
    with pytest.raises(UsageError, match="on the command line"):
        load(Job, yaml_file, ["faces.detector.threshold=high"])


def test_several_problems_are_counted_and_unknown_keys_come_first(yaml_file: Path) -> None:
    yaml_file.write_text("learning_rate: x\ntsks: [va]\nfaces: {every: y}\n")
    with pytest.raises(UsageError, match=r"^unknown key 'tsks': did you mean 'tasks'\?, and 2 more problems"):
        load(Job, yaml_file, [])


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_numbers_that_are_not_finite_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        load(Job, None, [f"learning_rate={value}"])


@pytest.mark.parametrize("override", ["faces", "=3", "faces..every=2", ".=1"])
def test_what_is_no_override_is_refused_with_an_example(override: str) -> None:
    with pytest.raises(UsageError, match="write key=value"):
        load(Job, None, [override])


@pytest.mark.parametrize("value", ["2024-13-45", "&a [*a]", "[" * 2000, "{"])
def test_a_value_that_yaml_cannot_make_is_one_sentence(value: str) -> None:
    with pytest.raises(UsageError, match=r"the value of 'name=.*' cannot be read: put it in quotes"):
        load(Job, None, [f"name={value}"])


def test_a_key_below_a_plain_value_is_refused(yaml_file: Path) -> None:
    with pytest.raises(UsageError, match=r"'faces\.every' is not a section"):
        load(Job, yaml_file, ["faces.every.more=1"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"faces: [1,\nx: {", "is not YAML"),
        (b"- a\n- b\n", "holds no keys"),
        (b"a: 2024-13-45\n", r"month must be in 1\.\.12.*: put it in quotes"),
        (b"a: &a [*a]\n", "holds itself"),
        (b"\xff\xfe\x00", "not a UTF-8 text"),
        (b"a: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=problem) as error:
        load(Job, file, [])
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the configuration .*none\.yaml: No such file"):
        load(Job, tmp_path / "none.yaml", [])


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert load(Job, file, []) == Job()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Job().learning_rate = 2.0  # type: ignore[misc]


def test_the_digest_is_the_same_for_the_same_values_whatever_their_order_and_process() -> None:
    values = {"b": [1, 2.5, None, "ü"], "a": {"y": True, "x": 1}}
    program = (
        "from common.config import digest; import json, sys; "
        "print(digest(dict(reversed(json.loads(sys.argv[1]).items()))))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, json.dumps(values)], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digest(values) == other
    assert len(other) == 12
    assert int(other, 16) >= 0


def test_the_digest_tells_values_apart_and_takes_models_as_their_values() -> None:
    changed = Job(faces=Faces(every=2))
    assert digest(Job()) == digest(Job().model_dump())
    assert digest(changed) != digest(Job())
    assert digest({"a": "1"}) != digest({"a": 1})
