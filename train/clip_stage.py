"""The stage `clips`: the model, its examples, and what it is validated on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common import log
from common.errors import UsageError
from train.data import clips as clips_
from train.data.augment import augment
from train.data.clips import Clips
from train.data.crops import content
from train.data.faces import FaceSet
from train.data.order import batch_indices
from train.evaluate import clip_values
from train.loop import Session, step_seed
from train.metrics import measure
from train.models import dfer_clip, ranks
from train.models.clip import ClipOptions
from train.models.scoring import Head, ScoringModel
from train.objectives import Batch, ClipExpressions, Objective
from train.recipe import Recipe
from train.validation import Validation

NAME = "clips"


class ClipTraining:
    """objective: to be trained, with the model that starts from the file `init` (its SHA-256, None: chance).

    clips: of the training videos; seconds: how long one lasts in the median. options: of the head, with all that the
    recipe leaves to the data. made_from: what decides the weights beside what the stages of a run share.
    """

    def __init__(self, recipe: Recipe, faces: FaceSet, session: Session) -> None:
        """Raises UsageError for weights and prompts that do not fit, and for clips that are needed and not there."""
        assert recipe.clips is not None
        assert isinstance(recipe.encoder, ClipOptions)
        self._recipe, self._stage, self._faces, self._session = recipe, recipe.clips, faces, session
        self._window = self._stage.model.windowing.window
        every = clips_.cut(faces, self._stage.classes, self._stage.cut)
        training = faces.for_encoder()
        held_out = training & np.isin(faces.video, _held_out(faces, training, self._stage.held_out))
        if self._stage.select == "best":
            self.clips, self._validated = every.of(training & ~held_out), every.of(held_out)
        else:
            self.clips, self._validated = every.of(training), every.of(faces.validation["expr"])
        self._check()
        self.seconds = clips_.seconds(faces, self.clips)
        self.options = self._stage.model.stated(self._stage.classes, self.seconds)
        torch.manual_seed(recipe.seed)
        model, self.init = dfer_clip.build(recipe.encoder, self._stage.model, self._stage.classes, recipe.weights)
        self.objective = ClipExpressions(model, recipe.preprocess, self._stage.frozen)

    def batch_at(self, step: int) -> Batch:
        seed, stage = self._recipe.seed, self._stage
        chosen = batch_indices(len(self.clips), stage.batch, step, seed, drop_last=stage.drop_last)
        rng = np.random.default_rng(step_seed(seed, NAME, step))
        rows = ranks.mine(self.clips.drawn(chosen, self._window, rng))
        images = self._faces.images(rows.ravel())
        images = augment(images.reshape(*rows.shape, *images.shape[1:]), stage.augment, rng)
        return {"images": torch.from_numpy(images), "labels": torch.from_numpy(self.clips.labels[ranks.mine(chosen)])}

    @property
    def validation(self) -> Validation | None:
        if not self._stage.validates:
            return None
        return Validation(self._stage.by, self._measured, "last" if self._stage.select == "last" else "best")

    @property
    def made_from(self) -> dict[str, Any]:
        stage = self._stage.model_copy(update={"model": self.options})
        return {
            "stage": stage.settings(),
            "init": self.init,
            "pictures": self._faces.crops.digest,
            "clips": self._content(self.clips),
            "validation": self._content(self._validated) if stage.validates else None,
        }

    def head(self, objective: ClipExpressions) -> Head:
        """The head for scoring, of the objective's weights."""
        return Head(objective.model.head(), self._stage.classes, self.options.windowing)

    def _measured(self, trained: Objective) -> Mapping[str, float]:
        assert isinstance(trained, ClipExpressions)
        heads = {"expr": self.head(trained)}
        model = ScoringModel(trained.model.image, heads, self._recipe.preprocess, self._session.device)
        return measure(NAME, clip_values(model, self._faces, self._validated), self._validated.labels)

    def _content(self, clips: Clips) -> str:
        return content(self._faces.picture[clips.first], clips.frames, clips.labels)

    def _check(self) -> None:
        where = f"no face of {self._faces.source}"
        if not len(self.clips):
            raise UsageError(f"{where} is of a training clip with a label of clips.classes: check data and clips.cut")
        if self._stage.validates and not len(self._validated):
            raise UsageError(
                f"clips cannot be validated, {where} is of a clip to validate on: name other videos with "
                "data.validation, or leave out select, validate_every and validations_per_epoch in clips"
            )
        if absent := [name for n, name in enumerate(self._stage.classes) if n not in self.clips.labels]:
            log.get("train").warning("classes that no training clip has", classes=absent, fold=self._faces.fold)


def _held_out(faces: FaceSet, training: NDArray[np.bool_], share: float) -> NDArray[np.int32]:
    """The numbers of about this share of the training videos: those whose names have the lowest SHA-256."""
    videos = np.unique(faces.video[training])
    order = sorted(videos, key=lambda number: hashlib.sha256(faces.names[number].encode()).digest())
    return np.array(order[: max(1, round(share * len(order)))], np.int32)
