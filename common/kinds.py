"""Options with a `kind`: the mechanism by which encoders, heads and the like can be exchanged.

The key `kind` of a section such as `encoder: {kind: vit, depth: 4}` names the class of options that reads the section.
The class is imported when it is first used, so the libraries of a kind are loaded only where that kind is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

Options = TypeVar("Options", bound=BaseModel)


class Kinds(Mapping[str, type[Options]], Generic[Options]):
    """Kind -> class of options. A field annotated `Annotated[Base, KINDS]` is read by the class that `kind` names."""

    def __init__(self, noun: str, places: dict[str, str | type[Options]]) -> None:
        """`noun`: what they are kinds of, such as "encoder"; `places`: kind -> the class, or its "module:name"."""
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
        return kind in self.places  # the inherited method would import the class

    def read(self, section: Any) -> BaseModel:
        """The options in a section {"kind": kind, ...}. Raises ValidationError with the key inside the section."""
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
