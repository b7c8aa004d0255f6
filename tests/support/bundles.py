"""Bundles built by hand: networks of given options with random weights, or with weights that a test gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.bundle.folder import Bundle, write
from common.tasks import TASKS
from train.models.options import EncoderOptions, HeadOptions, part, weights_file

OUTPUTS: dict[str, tuple[str, ...]] = {name: task.outputs for name, task in TASKS.items()}


def heads(options: HeadOptions, outputs: Mapping[str, Sequence[str]] = OUTPUTS) -> dict[str, dict[str, Any]]:
    """The heads of a manifest, all of one shape."""
    return {task: part(options, task) | {"outputs": names} for task, names in outputs.items()}


def make_bundle(
    folder: Path,
    encoder: EncoderOptions,
    head: HeadOptions | Mapping[str, HeadOptions],
    preprocess: Mapping[str, Any],
    crop: int,
    /,
    *,
    outputs: Mapping[str, Sequence[str]] = OUTPUTS,
    weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    **changes: Any,
) -> Bundle:
    """`head`: of all tasks of `outputs`, or by task. `changes`: fields of the manifest, whatever the networks are.

    The weights are random, from the seed 0, but for those that are given by file.
    """
    torch.manual_seed(0)
    chosen = head if isinstance(head, Mapping) else dict.fromkeys(outputs, head)
    drawn = {weights_file("encoder"): encoder.build().state_dict()}
    for task, options in chosen.items():
        drawn[weights_file(task)] = options.build(encoder.features, len(outputs[task])).state_dict()
    manifest = {
        "name": "made",
        "encoder": part(encoder, "encoder"),
        "preprocess": preprocess,
        "crop": {"size": crop},
        "heads": {task: part(options, task) | {"outputs": outputs[task]} for task, options in chosen.items()},
        "recipe": {},
        "data": {},
        "metrics": {},
        "code_version": "0",
        "licence": "Apache-2.0",
        "intended_use": "tests",
    }
    return write(folder, manifest | changes, drawn | dict(weights or {}))
