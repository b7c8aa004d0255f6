"""Options of the commands that look for faces: short names for the keys of `ingest.faces.FacesOptions`."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar, cast

import click

from ingest.decode.registry import DECODERS
from ingest.detect.registry import DETECTORS

F = TypeVar("F", bound=Callable[..., Any])


# An option's argument -> the section and the key that it sets.
KEYS = {
    "decoder": ("decode", "decoder"),
    "every": ("decode", "every"),
    "detector": ("detector", "name"),
    "detector_weights": ("detector", "weights"),
    "min_face": ("detector", "min_face"),
    "max_faces": ("detector", "max_faces"),
    "detect_every": ("detector", "every"),
}


def face_options(function: F) -> F:
    """Adds the options to a command. It gets the given ones as the argument `faces`: section -> key -> value."""

    def command(*args: Any, **values: Any) -> Any:
        faces: dict[str, dict[str, Any]] = {}
        for name, (section, key) in KEYS.items():
            value = values.pop(name)
            if value is not None:
                faces.setdefault(section, {})[key] = value
        return function(*args, faces=faces, **values)

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
            click.option(
                "--min-face",
                type=click.FloatRange(min=12),
                metavar="PIXELS",
                help="Smallest face: its longer side. [default: 32]",
            ),
            click.option(
                "--max-faces", type=click.IntRange(min=1), metavar="N", help="Take the N largest faces of a frame."
            ),
            click.option(
                "--detect-every",
                metavar="N|auto",
                help="Search one frame in N, interpolate faces in the others. [default: 1]",
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped
