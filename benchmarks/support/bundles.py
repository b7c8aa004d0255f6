"""Bundles for benchmarks: the networks of a recipe, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from common.bundle import folder
from common.bundle.folder import Bundle
from common.tasks import TASKS
from train import recipe as recipes
from train.models.options import part, weights_file


def write(out: Path, name: str = "demo") -> Bundle:
    """The bundle of the recipe's networks with random weights: it takes as much time as a trained one."""
    torch.manual_seed(0)
    recipe = recipes.load(name)
    networks = {"encoder": recipe.encoder.build()}
    heads = {}
    for task, stage in recipe.stages.items():
        outputs = TASKS[task].outputs
        networks[task] = stage.model.build(recipe.encoder.features, len(outputs))
        heads[task] = part(stage.model, task) | {"outputs": outputs}
    manifest = {
        "name": recipe.name,
        "encoder": part(recipe.encoder, "encoder"),
        "heads": heads,
        "preprocess": recipe.preprocess.model_dump(),
        "crop": recipe.crop.model_dump(),
        "recipe": recipe.model_dump(mode="json"),
        "data": {},
        "metrics": {},
        "code_version": "0",
        "licence": recipe.licence,
        "intended_use": "benchmarks",
    }
    weights = {weights_file(network): each.state_dict() for network, each in networks.items()}
    return folder.write(out, manifest, weights)
