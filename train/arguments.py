"""Arguments that the commands of this part share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _without_set(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            f"keys are written without --set: {ctx.command_path} {parameter.metavar} {value} ...", ctx
        )


def keys(what: str) -> Callable[[F], F]:
    """Adds the argument KEY=VALUE..., and an answer for those who write --set as the jobs over archives want it."""

    def add(function: F) -> F:
        refusal = click.option("--set", hidden=True, expose_value=False, metavar=what, callback=_without_set)
        return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(refusal(function))

    return add


def numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """The callback of an option that takes whole numbers with commas between them."""
    try:
        return tuple(int(each) for each in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter("should be whole numbers with commas between them, as in 0,1,2") from None


def words(options: Mapping[str, object]) -> list[str]:
    """Options as they are typed, without those that are empty, zero or false."""
    given = [(name,) if value is True else (name, str(value)) for name, value in options.items() if value]
    return [word for each in given for word in each]
