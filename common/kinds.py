"""Options that say by their `kind` what they are options of: one mechanism for all that can be exchanged.

A section of a configuration such as `encoder: {kind: vit, depth: 4}` is read by the class that `kind` names. The class
is imported when it is first asked for, so what a kind needs is loaded only where that kind is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

Options = TypeVar("Options", bound=BaseModel)


class Kinds(Mapping[str, type[Options]], Generic[Options]):
    """Classes of options by their kind. As a field's annotation, `Annotated[Base, KINDS]`, it reads such a section."""

    def __init__(self, noun: str, places: dict[str, str | type[Options]]) -> None:
        """`noun` is what they are kinds of; `places` has for each kind the class, or its "module:name"."""
        self.noun = noun
        self.places = places

    def __getitem__(self, kind: str) -> type[Options]:
        place = self.places[kind]
        if isinstance(place, str):
            module, _, name = place.partition(":")
            place = getattr(import_module(module), name)
        return place

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, kind: object) -> bool:
        return kind in self.places  # Mapping's own would import the class

    def read(self, section: Any) -> BaseModel:
        """The options in a section {"kind": kind, ...}. Raises ValidationError, located in the section."""
        if isinstance(section, BaseModel):
            return section
        if not isinstance(section, Mapping):
            raise ValueError(f"should be a section with the kind of the {self.noun}")
        kind = section.get("kind")
        if isinstance(kind, str) and kind in self:
            return self[kind].model_validate(section)
        known = PydanticCustomError("kind", "should be {kinds}", {"kinds": " or ".join(self)})
        problem = (
            InitErrorDetails(type=known, loc=("kind",), input=kind)
            if "kind" in section
            else InitErrorDetails(type="missing", loc=("kind",), input=section)
        )
        raise ValidationError.from_exception_data(self.noun, [problem])

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        as_its_class = core_schema.plain_serializer_function_ser_schema(
            lambda options, info: options.model_dump(mode=info.mode), info_arg=True
        )
        return core_schema.no_info_plain_validator_function(self.read, serialization=as_its_class)
