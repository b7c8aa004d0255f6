"""Configuration: pydantic models whose values come from defaults < YAML file < the command's options < `key=value`.

Secrets are never configuration: they come from the environment, where the library that needs them reads them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from common.errors import UsageError
from common.kinds import Kinds

COMMAND_LINE = "on the command line"


class Config(BaseModel):
    """Base of every configuration: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def load(model: type[M], file: Path | None, overrides: Sequence[str], data: Mapping[str, Any] | None = None) -> M:
    """Builds `model` from its defaults, then `file` (YAML), then `data` (options of the command), then `overrides`.

    An override is `key=value`; dots in the key lead into sections and the value is read as YAML, so `train.lr=1e-4`,
    `tasks=[va, au]`. Raises `UsageError` that names the wrong key, its place and the most similar known key.
    """
    lines: dict[tuple[str, ...], int] = {}
    values: dict[str, Any] = {}
    if file is not None:
        values, lines = _read(file)
    values = _merge(values, data or {})
    given: set[tuple[str, ...]] = set()
    for override in overrides:
        path, value = _parse(override, model)
        _put(values, path, value)
        given.add(path)

    def place(path: tuple[str, ...]) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in given:
                return COMMAND_LINE
            if path[:end] in lines:
                return f"in {file}, line {lines[path[:end]]}"
        return f"in {file}" if file is not None else COMMAND_LINE

    try:
        return model.model_validate(values)
    except ValidationError as error:
        path, problem = explain(error, model)
        raise UsageError(f"{problem} ({place(path)})") from None


def digest(value: BaseModel | Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON. The order of keys does not matter."""
    plain = to_jsonable_python(value)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str, ...], str]:
    """The key of a validation error, and a sentence about it. Of several errors, an unknown key is told first."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path = tuple(str(step) for step in first["loc"])
    others = len(problems) - 1
    sentence = _sentence(first, path, model)
    return path, sentence + (f", and {others} more problem{'s' * (others > 1)}" if others else "")


def _sentence(problem: ErrorDetails, path: tuple[str, ...], model: type[BaseModel]) -> str:
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        near = _nearest(path, model)
        return f"unknown key '{key}'" + (f": did you mean '{near}'?" if near else "")
    if problem["type"] == "missing":
        return f"the key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if not key or isinstance(problem["input"], Mapping):  # a section as a whole would be long
        return f"'{key}' {message}" if key else message
    return f"'{key}' {message}, not {problem['input']!r}"


def _nearest(path: tuple[str, ...], model: type[BaseModel]) -> str | None:
    """The known key that is most similar to an unknown one: in its own section, or anywhere in the model."""
    *section, name = path
    known = {key.rsplit(".", 1)[-1]: key for key in _keys(model)}
    known |= {field: ".".join([*section, field]) for place in _sections(model, section) for field in place.model_fields}
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return known[near[0]] if near else None


def _sections(model: type[BaseModel], path: Sequence[str]) -> list[type[BaseModel]]:
    """The models of the section at `path`. Steps that are not fields (list positions, union tags) are skipped."""
    places = [model]
    for step in path:
        below = [part for place in places if step in place.model_fields for part in _parts(place, step)]
        places = below or places
    return places


def _parts(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    def search(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        if isinstance(annotation, Kinds):
            yield from annotation.values()
        for argument in get_args(annotation):
            yield from search(argument)

    info = model.model_fields[field]
    return [part for annotation in (info.annotation, *info.metadata) for part in search(annotation)]


def _keys(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[str]:
    for field in model.model_fields:
        yield ".".join((*above, field))
        for part in _parts(model, field):
            yield from _keys(part, (*above, field))


def _read(file: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The file's values, and the line of each key."""
    try:
        values, lines = _parsed(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the configuration {file} is not a UTF-8 text: name a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UsageError(f"the configuration {file}{line} is not YAML: {problem}") from None
    except ValueError as error:
        raise UsageError(f"a value in the configuration {file} cannot be read, {error}: put it in quotes") from None
    if values is None:
        return {}, lines
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {file} holds no keys: write 'key: value' lines")
    return values, lines


def _parsed(text: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The values of a YAML text, and the line of each key. Raises `YAMLError`, and `ValueError` for an odd value."""
    try:
        return yaml.safe_load(text), dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except RecursionError:
        raise ValueError("it holds itself or is too deep") from None


def _lines(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, str(index)), item.start_mark.line + 1
            yield from _lines(item, (*path, str(index)))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` updated by `above`, section by section. Any other value is replaced as a whole."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            lower = merged.get(key)
            value = _merge(lower if isinstance(lower, Mapping) else {}, value)
        merged[key] = value
    return merged


def _parse(override: str, model: type[BaseModel]) -> tuple[tuple[str, ...], Any]:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise UsageError(f"'{override}' sets no key: write key=value, such as {_example(model)}")
    try:
        return path, _parsed(text)[0]
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"the value of '{override}' cannot be read: put it in quotes") from None


def _example(model: type[BaseModel]) -> str:
    """The first key of the model that has a plain default, with that default."""
    defaults = ((name, field.default) for name, field in model.model_fields.items())
    return next((f"{name}={value}" for name, value in defaults if isinstance(value, str | int | float)), "key=value")


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *sections, name = path
    for depth, section in enumerate(sections):
        below = values.get(section)
        if below is not None and not isinstance(below, Mapping):
            raise UsageError(f"'{'.'.join(path)}' cannot be set: '{'.'.join(path[: depth + 1])}' is not a section")
        values[section] = dict(below or {})
        values = values[section]
    values[name] = value
