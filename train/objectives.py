"""What is trained: an objective is a model with its loss. The training loop knows nothing else about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.bundle.manifest import Preprocess
from common.tasks import TASKS, Task
from train import losses
from train.models.linear import LinearOptions
from train.models.options import HeadOptions
from train.models.preprocess import normalise
from train.recipe import Recipe

Batch = Mapping[str, Tensor]


class Objective(nn.Module, ABC):
    """A model that knows its loss."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a float32 scalar."""


class MaePretrain(Objective):
    """Rebuilds the hidden patches of `images`, uint8 [B, C, s, s]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        assert recipe.mae is not None
        self.model = recipe.encoder.autoencoder(recipe.mae.decoder, recipe.mae.mask_ratio)
        self.norm_pix = recipe.mae.norm_pix
        self.counts_all = recipe.mae.loss == "all"
        self.preprocess: Preprocess = recipe.preprocess

    def forward(self, batch: Batch) -> Tensor:
        images = normalise(batch["images"], self.preprocess)
        patches = self.model.patches(images)
        rebuilt, hidden = self.model(images, torch.rand(patches.shape[:2], device=images.device))
        counted = torch.ones_like(hidden) if self.counts_all else hidden
        return losses.masked_patch_loss(rebuilt, patches, counted, normalise=self.norm_pix)


class ExpressionFinetune(Objective):
    """Expressions of single faces: `images` uint8 [B, C, s, s], `labels` int64 [B]."""

    def __init__(self, recipe: Recipe, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = LinearOptions().build(recipe.encoder.features, len(TASKS["expr"].outputs))
        self.preprocess: Preprocess = recipe.preprocess

    def forward(self, batch: Batch) -> Tensor:
        features = self.encoder(normalise(batch["images"], self.preprocess))[:, None]
        valid = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return losses.expression_loss(self.head(features, valid), batch["labels"])


class HeadObjective(Objective):
    """A task's prediction for each face: `features` [N, w, D], `valid` bool [N, w], `labels` [N, w, ...]."""

    def __init__(self, task: Task, options: HeadOptions, features: int, noise: float) -> None:
        super().__init__()
        self.model = options.build(features, len(task.outputs))
        self.loss = losses.LOSSES[task.name]
        self.noise = noise

    def forward(self, batch: Batch) -> Tensor:
        features = batch["features"]
        if self.noise:
            features = features + self.noise * torch.randn_like(features)
        return self.loss(self.model(features, batch["valid"]), batch["labels"])
