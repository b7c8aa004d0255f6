"""Imports any ONNX file that takes a face and gives values for it; a description says which."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from common.bundle.manifest import Origin, Part, Preprocess
from common.config import Config
from common.crops import Crop, View
from common.errors import UsageError
from common.tasks import TASKS, AnyOf, OneOf
from train.models.onnx import GraphOutput, OnnxEncoder, OnnxOptions
from train.models.published.published import COLUMNS, Published, read, with_columns

TOLERANCE = 1e-3  # of the largest value: a face's values may differ by this from batch to batch


class Input(Config):
    """The file's input, float32 [any number, ...] of one size. `mean` and `std` are of values in [0, 1], in RGB."""

    size: int = Field(gt=0, le=1024, description="side of the picture, px")
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Input:
        channels = 1 if self.colour == "grey" else 3
        if {len(self.mean), len(self.std)} != {channels} or min(self.std) <= 0:
            raise ValueError(f"mean and std should have {channels} numbers each, those of std above 0")
        return self


class Output(Config):
    """One output of the file. `columns`: for each value its column of `scores`, null if there is none.

    `probabilities`: the network has already applied softmax to expressions and sigmoid to action units.
    """

    columns: tuple[str | None, ...]
    probabilities: bool = False

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: tuple[str | None, ...]) -> tuple[str | None, ...]:
        for column in columns:
            if column is not None and column not in COLUMNS:
                near = difflib.get_close_matches(column, COLUMNS, n=1)
                meant = f": did you mean {near[0]}?" if near else f", such as {', '.join(COLUMNS)}"
                raise ValueError(f"names {column}, which is no prediction of `scores`{meant}")
        return columns


class Description(Config):
    """What a bundle must state and the file does not. Every output must be listed; `columns: []` leaves it out."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    publisher: str
    licence: str
    intended_use: str
    input: Input
    crop: View = View()
    outputs: dict[str, Output] = Field(min_length=1)
    metrics: dict[str, Any] = Field({}, description="as published")

    @model_validator(mode="after")
    def _each_once(self) -> Description:
        count = Counter(column for output in self.outputs.values() for column in output.columns if column is not None)
        if twice := [column for column, times in count.items() if times > 1]:
            raise ValueError(f"outputs name {twice[0]} twice")
        if not count:
            raise ValueError("outputs name no column of `scores`")
        return self


def published(file: Path, description: Description, sha256: str | None) -> Published:
    """The bundle of an ONNX file. Raises UsageError if it cannot be read, has another digest or does not fit the
    description."""
    return around(file.name, *read(file, sha256, "the file that --sha256 names"), description)


def around(file: str, data: bytes, sha256: str, description: Description) -> Published:
    """The bundle of an ONNX file with content `data`. Raises UsageError if it does not fit the description.

    The network is tried on a few pictures: its values must be finite, and independent of the batch.
    """
    used = {name: output for name, output in description.outputs.items() if output.columns}
    options = OnnxOptions(
        image=description.input.size,
        colour=description.input.colour,
        layout=description.input.layout,
        outputs=tuple(_graph_output(name, output) for name, output in used.items()),
    )
    try:
        encoder = OnnxEncoder(options, data)
        _try(encoder, description)
    except ValueError as error:
        raise UsageError(f"{file} is not the network that is described: {error}") from None
    taken = description.input
    return Published(
        name=description.name,
        networks=with_columns(
            Part(kind="onnx", options=options.model_dump(mode="json", exclude={"kind"}), file="encoder.onnx"),
            data,
            [column for output in used.values() for column in output.columns],
        ),
        preprocess=Preprocess(
            crop=(0, 0, taken.size), size=taken.size, grey=taken.colour == "grey", mean=taken.mean, std=taken.std
        ),
        crop=Crop(size=taken.size, **description.crop.model_dump()),
        origin=Origin(publisher=description.publisher, file=file, sha256=sha256),
        licence=description.licence,
        intended_use=description.intended_use,
        metrics=description.metrics,
    )


def _graph_output(name: str, output: Output) -> GraphOutput:
    def of(kind: type) -> tuple[int, ...]:
        tasks = [column and TASKS[COLUMNS[column][0]] for column in output.columns]
        return (
            tuple(place for place, task in enumerate(tasks) if isinstance(task, kind)) if output.probabilities else ()
        )

    return GraphOutput(name=name, width=len(output.columns), softmaxed=of(OneOf), sigmoided=of(AnyOf))


def _try(encoder: OnnxEncoder, description: Description) -> None:
    """Raises ValueError for outputs that are not described, values that are not finite or depend on the batch."""
    if unknown := [name for name in encoder.outputs if name not in description.outputs]:
        raise ValueError(f"it has the output {unknown[0]!r}, which is not described (`columns: []` leaves it out)")
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(5, *_shape(encoder))).astype(np.float32))
    together = encoder(pictures)
    alone = torch.cat([encoder(picture[None]) for picture in pictures])
    if not together.isfinite().all():
        raise ValueError("it gives values that are not finite numbers")
    if (together - alone).abs().max() > TOLERANCE * max(1.0, float(alone.abs().max())):
        raise ValueError("what it gives for a picture depends on the others in the batch")


def _shape(encoder: OnnxEncoder) -> tuple[int, int, int]:
    channels, side = encoder.options.input
    return channels, side, side
