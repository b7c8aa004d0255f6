"""The page docs/options.md: every key of a configuration with its values, default and meaning, from the models."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.kinds import Kinds

_BOUNDS = {annotated_types.Ge: ("ge", ">="), annotated_types.Gt: ("gt", ">")}
_BOUNDS |= {annotated_types.Le: ("le", "<="), annotated_types.Lt: ("lt", "<")}
_WORDS = {int: "whole number", float: "number", bool: "true or false", type(None): "null"}


Rows = list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Chapter:
    """A chapter of the page: the keys of `model`, which are at `path`, except those in the sections `without`."""

    heading: str
    sentence: str
    model: type[BaseModel]
    path: str = ""
    without: tuple[str, ...] = ()


def to_markdown(title: str, intro: str, chapters: Sequence[Chapter]) -> str:
    """The page: each chapter has a table for each of its sections."""
    lines = [f"# {title}", "", intro, ""]
    for chapter in chapters:
        lines += [f"## {chapter.heading}", "", chapter.sentence, ""]
        for section, about, rows in sections(chapter.model, chapter.path):
            if section.startswith(chapter.without):
                continue
            lines += [f"### {section}", ""] * bool(section)
            lines += [about, ""] * bool(about)
            lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def sections(
    model: type[BaseModel], path: str = "", values: BaseModel | None = None, about: str = ""
) -> Iterator[tuple[str, str, Rows]]:
    """(path, description, rows) of a model and of every section below it; a row is key, values, default, meaning.

    `values`: the defaults, if the model that contains this one sets others.
    """
    prefix = f"{path.partition(',')[0]}." if path else ""
    rows: Rows = []
    below = []
    for name, field in model.model_fields.items():
        if name == "kind":  # is in the section's heading
            continue
        default = getattr(values, name) if values is not None else field.default
        parts = list(_sections_of(field))
        if parts and not _plain(field):
            suffix = ".NAME" if get_origin(field.annotation) is dict else ""
            within = default if isinstance(default, BaseModel) else None
            for kind, part in parts:
                place = f"{prefix}{name}{suffix}" + (f", kind: {kind}" if kind else "")
                below.append((part, place, within, field.description))
            if within is None and not field.is_required():
                rows.append((f"{prefix}{name}", "a section, or null", _written(default), field.description or ""))
        else:
            rows.append((f"{prefix}{name}", _values(field), _default(field, default), field.description or ""))
    if rows:
        yield path, about, rows
    for part, place, within, description in below:
        yield from sections(part, place, within, description or "")


def _sections_of(field: FieldInfo) -> Iterator[tuple[str | None, type[BaseModel]]]:
    """(kind or None, model) for each model that a field may hold."""
    for place in (field.annotation, *field.metadata):
        if isinstance(place, Kinds):
            yield from place.items()
            return
    for part in _flat(field.annotation):
        if isinstance(part, Kinds):
            yield from part.items()
            return
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield None, part


def _flat(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _flat(argument)


def _plain(field: FieldInfo) -> bool:
    """Whether the value is written in one line, as a list of sections is."""
    return get_origin(field.annotation) is tuple


def _values(field: FieldInfo) -> str:
    bounds = " and ".join(
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for kind, (name, sign) in _BOUNDS.items()
        if isinstance(limit, kind)
    )
    kind, null = _type(field.annotation), " or null"
    if bounds and kind.endswith(null):
        return f"{kind.removesuffix(null)} {bounds}, or null"
    return f"{kind} {bounds}".strip()


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(_written(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is tuple:
        return "list of " + _type(arguments[0]).replace("whole number", "whole numbers").replace("text", "texts")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "sections"
    return _WORDS.get(annotation, "text")


def _default(field: FieldInfo, default: Any) -> str:
    return "none: it must be set" if field.is_required() else _written(default)


def _written(value: Any) -> str:
    """The value as YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)
