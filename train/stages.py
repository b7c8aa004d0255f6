"""The stages of a recipe. A stage that an earlier run finished with the same settings and data is not trained again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import common
from common import config
from common.errors import UsageError
from common.tasks import TASKS
from train import features, loop, objectives, processes, reconstructions
from train.clip_stage import NAME, ClipTraining
from train.data.augment import augment
from train.data.crops import Pictures, content
from train.data.faces import FaceSet
from train.data.order import batch_indices
from train.data.training import TrainingData
from train.data.windows import training_examples
from train.evaluate import encode, measured_head
from train.finished import Finished, key
from train.models import initial, ranks
from train.models.options import HeadOptions
from train.models.scoring import Head, ScoringModel
from train.objectives import Batch, Objective
from train.recipe import Recipe
from train.schedule import Schedule
from train.stage_options import (
    AugmentOptions,
    ClipStage,
    FinetuneStage,
    MaeStage,
    StageOptions,
    SupervisedStage,
)
from train.validation import Kept, Validation


@dataclass(frozen=True)
class Trained:
    """What comes out: the encoder, a head for each task, and the SHA-256 of the weights that the encoder started from.

    options: of each head. records: by stage, how many examples and steps it had, after which step its weights were
    kept, their score, and the name of their file in the store.
    """

    encoder: nn.Module
    heads: dict[str, Head]
    options: Mapping[str, HeadOptions]
    init: str | None
    records: dict[str, dict[str, Any]]


class Stages:
    """The stages of a run: "mae", "finetune", then one for the head of each task, with the task's name; or "clips".

    All random choices depend on the seed alone.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, session: loop.Session) -> None:
        """Raises UsageError for weights `init` that do not fit, and for a stage without faces to be validated on."""
        _check_validation(recipe, data)
        self._recipe, self._data, self._faces, self._session = recipe, data, data.faces, session
        self._finished = Finished(session.store)
        self._records: dict[str, dict[str, Any]] = {}
        self._clips = None if recipe.clips is None else ClipTraining(recipe, data.faces, session)
        if self._clips is None:
            torch.manual_seed(recipe.seed)
            self._encoder = recipe.encoder.build()
            start = recipe.weights
            self._init = None if start is None else initial.load(self._encoder, recipe.encoder.adopt, start)
        parts = {"preprocess", "crop", "encoder", "seed"}
        self._shared: dict[str, Any] = recipe.model_dump(mode="json", include=parts) | {
            "precision": session.precision,
            "code_version": common.__version__,
        }

    def run(self) -> Trained:
        """Runs all stages. Call it inside `processes.process_group`."""
        recipe = self._recipe
        if self._clips is not None and recipe.clips is not None:
            return self._of_clips(recipe.clips, self._clips)
        self._made_encoder = self._init  # what gave the encoder its weights: a file or stage's digest, None: chance
        if recipe.mae is not None and self._data.pretraining is not None:
            self._made_encoder = self._pretrain(recipe.mae, self._data.pretraining)
        if recipe.finetune is not None:
            self._made_encoder = self._finetune(recipe.finetune)
        heads = {task: self._head(task) for task in recipe.stages}
        options = {task: stage.model for task, stage in recipe.stages.items()}
        return Trained(self._encoder, heads, options, self._init, self._records)

    def _of_clips(self, stage: ClipStage, training: ClipTraining) -> Trained:
        objective = training.objective
        self._run(
            NAME,
            stage,
            objective,
            objective.model,
            training.batch_at,
            len(training.clips),
            training.made_from,
            training.validation,
        )
        self._records[NAME]["median_seconds"] = round(training.seconds, 3)
        heads, options = {"expr": training.head(objective)}, {"expr": training.options}
        return Trained(objective.model.image, heads, options, training.init, self._records)

    def _pretrain(self, stage: MaeStage, pictures: Pictures) -> str:
        torch.manual_seed(self._recipe.seed)
        objective = objectives.MaePretrain(self._recipe)
        if stage.init is not None:
            self._init = initial.load(objective.model, objective.model.adopt, stage.init, "mae.init")
        self._encoder = objective.model.encoder

        def batch_at(step: int) -> Batch:
            images = pictures.images(self._drawn(len(pictures), step, stage))
            return {"images": self._augmented("mae", step, images, stage.augment)}

        settings = stage.settings("data", "init")
        made_from = {"stage": settings, "init": self._init, "pictures": pictures.digest}

        def draw(picture: Path) -> None:
            reconstructions.show(objective, self._data.encoder, picture, self._recipe.seed)

        return self._run("mae", stage, objective, self._encoder, batch_at, len(pictures), made_from, trained=draw)

    def _finetune(self, stage: FinetuneStage) -> str:
        torch.manual_seed(self._recipe.seed)
        faces = self._data.encoder
        objective = objectives.ExpressionFinetune(self._recipe, self._encoder)
        rows = faces.for_encoder() & faces.annotated("expr")
        pictures, labels = faces.pictures(rows), faces.labels["expr"][rows]

        def batch_at(step: int) -> Batch:
            chosen = self._drawn(len(pictures), step, stage)
            images = self._augmented("finetune", step, pictures.images(chosen), stage.augment)
            return {"images": images, "labels": torch.from_numpy(labels[chosen])}

        def measured(tuned: Objective) -> Mapping[str, float]:
            assert isinstance(tuned, objectives.ExpressionFinetune)
            model = self._model(tuned.encoder, expr=Head(tuned.head, TASKS["expr"].outputs, None))
            found = encode(model, faces, faces.validation["expr"] & faces.annotated("expr"))
            return measured_head(model, "expr", found, faces)

        validation = Validation("expr", measured, stage.select) if stage.validates else None
        made_from = {
            "stage": stage.settings(),
            "start": self._made_encoder,
            "pictures": pictures.digest,
            "labels": content(labels),
            "validation": _validated(faces, "expr", stage),
        }
        return self._run("finetune", stage, objective, self._encoder, batch_at, len(pictures), made_from, validation)

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
            chosen = torch.from_numpy(self._drawn(len(rows), step, stage))
            at = rows[chosen]
            taught = labelled[chosen].reshape(*at.shape, *(1,) * (labels.ndim - 1))
            return {
                "features": self._features[at],
                "valid": valid[chosen],
                "labels": torch.where(taught, labels[at], missing),
            }

        def measured(trained: Objective) -> Mapping[str, float]:
            assert isinstance(trained, objectives.HeadObjective)
            model = self._model(self._encoder, **{name: Head(trained.model, task.outputs, windowing)})
            return measured_head(model, name, self._features.numpy(), self._faces)

        validation = Validation(name, measured, stage.select) if stage.validates else None
        made_from = {
            "stage": stage.settings("tasks"),
            "encoder": self._made_encoder,
            "pictures": self._faces.crops.digest,
            "faces": content(self._faces.picture[examples.rows], examples.valid, examples.labelled),
            "labels": content(self._faces.labels[name][examples.rows]),
            "validation": _validated(self._faces, name, stage),
        }
        self._run(name, stage, objective, objective.model, batch_at, len(rows), made_from, validation)
        return Head(objective.model, task.outputs, windowing)

    def _run(
        self,
        name: str,
        stage: StageOptions,
        objective: Objective,
        model: nn.Module,
        batch_at: Callable[[int], Batch],
        examples: int,
        made_from: Mapping[str, Any],
        validation: Validation | None = None,
        trained: Callable[[Path], None] = lambda picture: None,
    ) -> str:
        """Trains `model`, a part of `objective`, in place, or takes it from the store if it is there.

        `made_from`: all that decides the weights, beside what the stages share. Returns the digest of both. `trained`
        is called after the stage was trained, with the name of its picture.
        """
        digest = config.digest({**self._shared, "name": name, **made_from})
        kept_as = f"{name}-{digest}"
        record = self._finished.restore(kept_as, model)
        if record is None:
            steps = Schedule(stage, examples).steps if objective.parts() else 0
            kept = Kept(0)
            if steps:
                kept = loop.fit(name, objective, batch_at, stage, self._session, examples, validation, kept_as)
            record = {"examples": examples, "steps": steps, **asdict(kept)}
            if ranks.rank() == 0:
                trained(self._session.work / f"{kept_as}.png")
                self._finished.keep(kept_as, model, record)
                loop.checkpoints(self._session, kept_as).clear()
        self._records[name] = {**record, "file": key(kept_as)}
        return digest

    def _drawn(self, examples: int, step: int, stage: StageOptions) -> NDArray[np.int64]:
        """The examples of a step that this process computes."""
        return ranks.mine(batch_indices(examples, stage.batch, step, self._recipe.seed, drop_last=stage.drop_last))

    def _augmented(self, name: str, step: int, images: NDArray[np.uint8], changes: AugmentOptions) -> Tensor:
        rng = np.random.default_rng(loop.step_seed(self._recipe.seed, name, step))
        return torch.from_numpy(augment(images, changes, rng))

    @cached_property
    def _features(self) -> Tensor:
        """float32 [N, D]: features of the faces that train or validate a head, in float32 as in scoring."""
        stages, faces = self._recipe.stages, self._faces
        wanted = [faces.train[task] for task in stages]
        wanted += [faces.validation[task] for task, stage in stages.items() if stage.validates]
        chosen = np.any(wanted, axis=0)

        def compute() -> Tensor:
            share = np.zeros(len(faces), bool)  # each process encodes some faces
            share[np.array_split(np.flatnonzero(chosen), ranks.size())[ranks.rank()]] = True
            return processes.total(torch.from_numpy(encode(self._model(self._encoder), faces, share)))

        made_from = {key: self._shared[key] for key in ("preprocess", "crop", "encoder", "code_version")}
        made_from |= {"weights": self._made_encoder or self._recipe.seed, "faces": faces.crops.digest}
        digest = config.digest(made_from | {"rows": content(faces.picture, chosen)})
        file = self._session.work / f"features-{digest}.f32"
        return features.kept(file, (len(faces), self._recipe.encoder.features), compute)

    def _model(self, encoder: nn.Module, **heads: Head) -> ScoringModel:
        return ScoringModel(encoder, heads, self._recipe.preprocess, self._session.device)


def _validated(faces: FaceSet, task: str, stage: SupervisedStage) -> str | None:
    """The digest of what the stage is validated on, as its weights may be chosen by it. None: it is not validated."""
    if not stage.validates:
        return None
    rows = faces.validation[task]
    return content(faces.picture[rows], faces.labels[task][rows])


def _check_validation(recipe: Recipe, data: TrainingData) -> None:
    stages: list[tuple[str, str, SupervisedStage, FaceSet]] = []
    if recipe.finetune is not None:
        stages.append(("finetune", "expr", recipe.finetune, data.encoder))
    for group, stage in recipe.heads.items():
        stages += [(f"heads.{group}", task, stage, data.faces) for task in stage.tasks]
    for name, task, each, faces in stages:
        if each.validates and not (faces.validation[task] & faces.annotated(task)).any():
            raise UsageError(
                f"{name} cannot be validated, no face of a validation video has a label for {task}: name other videos "
                f"with data.validation, or leave out select, validate_every and validations_per_epoch in {name}"
            )
