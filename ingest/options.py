"""Options of the commands that look for faces: short names for the keys of `ingest.faces.FacesOptions`."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar, cast

import click

from ingest.decode.registry import DECODERS
from ingest.detect.registry import DETECTORS

F = TypeVar("F", bound=Callable[..., Any])


def face_options(function: F) -> F:
    """Adds the options to a command. It gets the given ones as the argument `faces`: section -> key -> value."""

    def command(
        *args: Any,
        decoder: str | None,
        every: int | None,
        detector: str | None,
        detector_weights: str | None,
        **rest: Any,
    ) -> Any:
        chosen: dict[str, dict[str, Any]] = {
            "decode": {"decoder": decoder, "every": every},
            "detector": {"name": detector, "weights": detector_weights},
        }
        faces = {
            section: {key: value for key, value in keys.items() if value is not None}
            for section, keys in chosen.items()
        }
        return function(*args, faces=faces, **rest)

    wrapped = cast(F, update_wrapper(command, function))
    for option in reversed(
        (
            click.option("--decoder", type=click.Choice(list(DECODERS)), help="What gives the pixels. [default: pyav]"),
            click.option("--every", type=click.IntRange(min=1), metavar="N", help="Take one frame in N."),
            click.option(
                "--detector", type=click.Choice(list(DETECTORS)), help="What finds the faces. [default: mtcnn]"
            ),
            click.option(
                "--detector-weights",
                type=click.Path(exists=True, dir_okay=False, resolve_path=True),
                metavar="FILE",
                help="RetinaFace's weights.",
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped
