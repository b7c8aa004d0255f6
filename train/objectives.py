"""What is trained: a task is a model, its loss and its metrics. The loop knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.bundle import Preprocess
from train import losses, metrics
from train.models.preprocess import normalise
from train.models.tcn_transformer import OUTPUTS, TemporalModel, TemporalOptions
from train.models.vit import Encoder, MaskedAutoencoder, patchify
from train.recipe import Recipe

Batch = Mapping[str, Tensor]


class Task(nn.Module, ABC):
    """A model that knows its loss."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a float32 scalar."""


class MaePretrain(Task):
    """Paints the hidden patches of `images`, uint8 [B, C, s, s]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        assert recipe.mae is not None
        self.model = MaskedAutoencoder(recipe.encoder, recipe.mae.decoder, recipe.mae.mask_ratio)
        self.norm_pix = recipe.mae.norm_pix
        self.preprocess: Preprocess = recipe.preprocess

    def forward(self, batch: Batch) -> Tensor:
        images = normalise(batch["images"], self.preprocess)
        patch, patches = self.model.encoder.options.patch, self.model.encoder.options.patches
        painted, hidden = self.model(images, torch.rand(len(images), patches, device=images.device))
        return losses.masked_patch_loss(painted, patchify(images, patch), hidden, normalise=self.norm_pix)


class ExpressionFinetune(Task):
    """Expressions of single faces: `images` uint8 [B, C, s, s], `labels` int64 [B]."""

    def __init__(self, recipe: Recipe, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(recipe.encoder.dim, OUTPUTS["expr"])
        self.preprocess: Preprocess = recipe.preprocess

    def forward(self, batch: Batch) -> Tensor:
        logits = self.head(self.encoder(normalise(batch["images"], self.preprocess)))
        return losses.expression_loss(logits, batch["labels"])


class TemporalTask(Task):
    """A prediction per frame: `features` [N, w, D], `valid` bool [N, w], `labels` [N, w, ...]."""

    name: str

    def __init__(self, options: TemporalOptions, noise: float) -> None:
        super().__init__()
        self.model = TemporalModel(options, OUTPUTS[self.name])
        self.noise = noise

    def forward(self, batch: Batch) -> Tensor:
        features = batch["features"]
        if self.noise:
            features = features + self.noise * torch.randn_like(features)
        return self.loss(self.model(features, batch["valid"]), batch["labels"])

    @staticmethod
    @abstractmethod
    def loss(predictions: Tensor, labels: Tensor) -> Tensor:
        """Over the annotated frames."""

    @staticmethod
    @abstractmethod
    def metrics(predictions: NDArray, labels: NDArray) -> dict[str, float]:
        """By name, for activated predictions [N, K] and labels [N, ...] of all frames of a split."""


class ValenceArousal(TemporalTask):
    name = "va"
    loss = staticmethod(losses.concordance_loss)

    @staticmethod
    def metrics(predictions: NDArray, labels: NDArray) -> dict[str, float]:
        return {
            "ccc_valence": metrics.ccc(predictions[:, 0], labels[:, 0]),
            "ccc_arousal": metrics.ccc(predictions[:, 1], labels[:, 1]),
        }


class Expression(TemporalTask):
    name = "expr"
    loss = staticmethod(losses.expression_loss)

    @staticmethod
    def metrics(predictions: NDArray, labels: NDArray) -> dict[str, float]:
        return {"f1_expression": metrics.expression_f1(np.argmax(predictions, axis=1), labels)}


class ActionUnits(TemporalTask):
    name = "au"
    loss = staticmethod(losses.action_unit_loss)

    @staticmethod
    def metrics(predictions: NDArray, labels: NDArray) -> dict[str, float]:
        each = metrics.action_unit_f1s(predictions, labels)
        return {"f1_action_units": float(np.mean(list(each.values()))), **{f"f1_{k}": v for k, v in each.items()}}


TEMPORAL: dict[str, type[TemporalTask]] = {task.name: task for task in (ValenceArousal, Expression, ActionUnits)}
