"""What is trained: an objective is a model with its loss. The training loop knows nothing else about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.bundle.manifest import Preprocess
from common.tasks import TASKS, Task
from train import losses
from train.models import ranks
from train.models.dfer_clip import DferClip
from train.models.linear import LinearOptions
from train.models.options import HeadOptions, VisionTransformerOptions
from train.models.preprocess import normalise
from train.recipe import Recipe

Batch = Mapping[str, Tensor]


class Objective(nn.Module, ABC):
    """A model that knows its loss."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a float32 scalar."""

    def parts(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """What is trained, by the name that a stage's `lr_of` has for it."""
        return {"model": list(self.parameters())}

    def share(self, parameter: str) -> float:
        """The share of the learning rate at which the parameter of this name learns."""
        return 1.0


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
        noise = ranks.mine(torch.rand((ranks.whole(len(patches)), patches.shape[1]), device=images.device))
        rebuilt, hidden = self.model(images, noise)
        counted = torch.ones_like(hidden) if self.counts_all else hidden
        return losses.masked_patch_loss(rebuilt, patches, counted, normalise=self.norm_pix)


class ExpressionFinetune(Objective):
    """Expressions of single faces: `images` uint8 [B, C, s, s], `labels` int64 [B]."""

    def __init__(self, recipe: Recipe, encoder: nn.Module) -> None:
        super().__init__()
        assert recipe.finetune is not None
        self.encoder = encoder
        self.options, self.layer_decay = recipe.encoder, recipe.finetune.layer_decay
        if recipe.finetune.drop_path:
            assert isinstance(recipe.encoder, VisionTransformerOptions)
            rates = torch.linspace(0, recipe.finetune.drop_path, recipe.encoder.depth).tolist()
            recipe.encoder.drop_paths(encoder, rates)
        self.head = LinearOptions().build(recipe.encoder.features, len(TASKS["expr"].outputs))
        self.preprocess: Preprocess = recipe.preprocess

    def forward(self, batch: Batch) -> Tensor:
        features = self.encoder(normalise(batch["images"], self.preprocess))[:, None]
        valid = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return losses.expression_loss(self.head(features, valid), batch["labels"])

    def share(self, parameter: str) -> float:
        if not isinstance(self.options, VisionTransformerOptions) or not parameter.startswith("encoder."):
            return 1.0
        return self.layer_decay ** self.options.above(parameter.removeprefix("encoder."))


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
            drawn = torch.randn((ranks.whole(len(features)), *features.shape[1:]), device=features.device)
            features = features + self.noise * ranks.mine(drawn)
        return self.loss(self.model(features, batch["valid"]), batch["labels"])


class ClipExpressions(Objective):
    """Expressions of clips: `images` uint8 [N, w, C, s, s], `labels` int64 [N]. The parts `frozen` are not trained."""

    def __init__(self, model: DferClip, preprocess: Preprocess, frozen: Collection[str] = ()) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        for role, parameters in model.parts().items():
            for parameter in parameters if role in frozen else ():
                parameter.requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        clips = normalise(batch["images"].flatten(0, 1), self.preprocess).unflatten(0, batch["images"].shape[:2])
        return losses.expression_loss(self.model(clips), batch["labels"])

    def parts(self) -> Mapping[str, Sequence[nn.Parameter]]:
        parts = {role: [each for each in found if each.requires_grad] for role, found in self.model.parts().items()}
        return {role: parameters for role, parameters in parts.items() if parameters}
