"""Weights that an encoder starts from: a file of this machine or of the Hugging Face hub, checked and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from common.config import Config
from common.download import from_hub
from common.errors import UsageError
from train.models import stored

Adopt = Callable[[dict[str, Tensor]], dict[str, Tensor]]

HUB = "hub:"
_SHOWN = 3  # names in a message


class InitialWeights(Config):
    """Weights to start from; `init: FILE` is short for `init: {file: FILE}`. docs/import.md says which files fit."""

    file: str = Field(
        min_length=1,
        description="a path, or hub:OWNER/MODEL/FILE of the Hugging Face hub; without FILE, model.safetensors",
    )
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of the file; one with another is refused")

    @model_validator(mode="before")
    @classmethod
    def _file_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value


def load(network: nn.Module, adopt: Adopt, weights: InitialWeights, key: str = "init") -> str:
    """Loads the weights into the network; returns the SHA-256 of their file.

    `adopt` gives the file's tensors the network's names; `key` names the weights in messages. Raises UsageError for a
    file that cannot be read, has another SHA-256 or does not fit; MienError if the hub fails.
    """
    file = _on_this_machine(weights.file)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if weights.sha256 not in (None, digest):
            raise UsageError(f"{key}: {file} is not the file that {key}.sha256 names: its SHA-256 is {digest}")
        published = stored.read(file)
    except OSError as error:
        raise UsageError(f"{key}: the weights {file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{key}: the weights {file} cannot be read: {error}") from None
    try:
        tensors = adopt(published)
        check(network.state_dict(), tensors, "the encoder")
    except (ValueError, RuntimeError, IndexError) as error:  # the last two: of shapes that no layout has
        raise UsageError(f"{key}: the weights {file} do not fit the recipe's encoder: {error}") from None
    network.load_state_dict(tensors)
    return digest


def _on_this_machine(name: str) -> Path:
    if not name.startswith(HUB):
        return Path(name)
    owner, _, rest = name.removeprefix(HUB).partition("/")
    model, _, file = rest.partition("/")
    return from_hub(f"{owner}/{model}", file or "model.safetensors")


def check(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], network: str) -> None:
    """Raises ValueError with the first names that are missing, that are too many, or that have another shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    differences = (
        ("it lacks", [name for name in wanted if name not in found]),
        (f"{network} has no", [name for name in found if name not in wanted]),
        (
            "of another shape:",
            [
                f"{name} ({tuple(found[name].shape)}, not {shape})"
                for name, shape in shapes.items()
                if name in found and tuple(found[name].shape) != shape
            ],
        ),
    )
    if problems := [f"{what} {_first(names)}" for what, names in differences if names]:
        raise ValueError("; ".join(problems))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
