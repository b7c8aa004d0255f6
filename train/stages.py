"""The stages of a recipe. A stage that an earlier run finished with the same settings and data is not trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import common
from common import config
from common.errors import UsageError
from common.tasks import TASKS
from train import loop, objectives
from train.data.augment import augment
from train.data.faces import FaceSet
from train.data.order import batch_indices
from train.data.windows import training_examples
from train.evaluate import encode
from train.finished import Finished
from train.models import initial
from train.models.scoring import Head, ScoringModel
from train.objectives import Batch, Objective
from train.recipe import AugmentOptions, FinetuneStage, MaeStage, Recipe, StageOptions


@dataclass(frozen=True)
class Trained:
    """What comes out: the fine-tuned encoder, a head for each task, and the SHA-256 of the file `init`."""

    encoder: nn.Module
    heads: dict[str, Head]
    init: str | None


class Stages:
    """The stages of a run: "mae", "finetune", then one for the head of each task, with the task's name.

    All random choices depend on the seed alone.
    """

    def __init__(self, recipe: Recipe, faces: FaceSet, session: loop.Session) -> None:
        """Raises UsageError for weights `init` that cannot be read or do not fit."""
        self._recipe, self._faces, self._session = recipe, faces, session
        self._finished = Finished(session.work)
        torch.manual_seed(recipe.seed)
        self._encoder = recipe.encoder.build()
        self._init = None if recipe.init is None else initial.load(self._encoder, recipe.encoder, recipe.init)
        parts = {"preprocess", "crop", "encoder", "seed", "zero"}
        self._made_from: dict[str, Any] = recipe.model_dump(mode="json", include=parts) | {
            "init": self._init,
            "precision": session.precision,
            "faces": faces.digest,
            "train": recipe.data.train,
            "validation": recipe.data.validation,
            "code_version": common.__version__,
        }

    def run(self) -> Trained:
        """Runs all stages. Call it inside `loop.process_group`."""
        if self._recipe.mae is not None and self._init is None:
            self._pretrain(self._recipe.mae)
        self._finetune(self._recipe.finetune)
        return Trained(self._encoder, {task: self._head(task) for task in self._recipe.stages}, self._init)

    def _pretrain(self, stage: MaeStage) -> None:
        torch.manual_seed(self._recipe.seed)
        objective = objectives.MaePretrain(self._recipe)
        self._encoder = objective.model.encoder
        rows = np.flatnonzero(self._faces.for_encoder())

        def batch_at(step: int) -> Batch:
            return {"images": self._pictures("mae", step, self._drawn(rows, step, stage), stage.augment)}

        self._made_from["mae"] = stage.model_dump(mode="json")
        self._run("mae", stage, objective, self._encoder, batch_at)

    def _finetune(self, stage: FinetuneStage) -> None:
        torch.manual_seed(self._recipe.seed)
        faces = self._faces
        objective = objectives.ExpressionFinetune(self._recipe, self._encoder)
        rows = np.flatnonzero(faces.for_encoder() & faces.annotated("expr"))

        def batch_at(step: int) -> Batch:
            chosen = self._drawn(rows, step, stage)
            labels = torch.from_numpy(faces.labels["expr"][chosen])
            return {"images": self._pictures("finetune", step, chosen, stage.augment), "labels": labels}

        self._made_from["finetune"] = stage.model_dump(mode="json")
        self._run("finetune", stage, objective, self._encoder, batch_at)

    def _head(self, name: str) -> Head:
        torch.manual_seed(self._recipe.seed)
        task, stage = TASKS[name], self._recipe.stages[name]
        windowing = stage.model.windowing
        objective = objectives.HeadObjective(task, stage.model, self._recipe.encoder.features, stage.noise)
        examples = training_examples(self._faces, name, windowing)
        if windowing is not None and not len(examples):
            raise UsageError(
                f"no label of {name} is of a frame that windows at {windowing.fps:g} frames/s take: raise the "
                "windowing's fps"
            )
        rows, valid, labelled = (torch.from_numpy(e) for e in (examples.rows, examples.valid, examples.labelled))
        labels = torch.from_numpy(self._faces.labels[name])
        missing = torch.tensor(task.missing, dtype=labels.dtype)

        def batch_at(step: int) -> Batch:
            chosen = torch.from_numpy(self._drawn(np.arange(len(rows)), step, stage))
            at = rows[chosen]
            taught = labelled[chosen].reshape(*at.shape, *(1,) * (labels.ndim - 1))
            return {
                "features": self._features[at],
                "valid": valid[chosen],
                "labels": torch.where(taught, labels[at], missing),
            }

        settings = stage.model_dump(mode="json", exclude={"tasks"})
        self._run(name, stage, objective, objective.model, batch_at, frames=rows.shape[1], head=settings)
        return Head(objective.model, task.outputs, windowing)

    def _run(
        self,
        name: str,
        stage: StageOptions,
        objective: Objective,
        model: nn.Module,
        batch_at: Callable[[int], Batch],
        frames: int = 1,
        **settings: Any,
    ) -> None:
        """Trains `model`, a part of `objective`, in place, or takes it from the work folder if it is there."""
        made_from = config.digest(self._made_from | settings)
        if not self._finished.restore(name, made_from, model):
            loop.fit(name, objective, batch_at, stage, self._session, frames * stage.batch)
            self._finished.keep(name, made_from, model)

    def _drawn(self, rows: NDArray[np.int64], step: int, stage: StageOptions) -> NDArray[np.int64]:
        return rows[batch_indices(len(rows), stage.batch, step, self._recipe.seed)]

    def _pictures(self, name: str, step: int, rows: NDArray[np.int64], changes: AugmentOptions) -> Tensor:
        rng = np.random.default_rng(loop.step_seed(self._recipe.seed, name, step))
        return torch.from_numpy(augment(self._faces.images(rows), changes, rng))

    @cached_property
    def _features(self) -> Tensor:
        """float32 [N, D]: features of the training faces from the fine-tuned encoder, in float32 as in scoring."""
        wanted = np.any([self._faces.train[task] for task in self._recipe.stages], axis=0)
        model = ScoringModel(self._encoder, {}, self._recipe.preprocess, self._session.device)
        return torch.from_numpy(encode(model, self._faces, wanted))
