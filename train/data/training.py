"""The faces that the stages of a recipe read, looked at before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import log
from common.errors import UsageError
from common.lake.layout import Lake
from common.tasks import TASKS
from train.data import faces as faces_
from train.data.crops import CropReader, Pictures
from train.data.faces import FaceSet
from train.data.sources import DataOptions, MaeSource
from train.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TrainingData:
    """faces: of the recipe's fold, for heads and evaluation. encoder: the same faces in the fold in which the encoder
    is trained. pretraining: what the masked autoencoder sees, None if there is none.
    """

    faces: FaceSet
    encoder: FaceSet
    pretraining: Pictures | None


def read(recipe: Recipe, lake: Lake, cache: Path | None = None) -> TrainingData:
    """`cache`: as of `CropReader`. Raises UsageError for a lake without the faces or labels that a stage takes."""
    reader = CropReader(lake, recipe.preprocess, recipe.crop.size, cache)
    faces = faces_.read(reader, recipe.data)
    fold = encoder_fold(recipe)
    encoder = faces if fold == recipe.data.fold else faces_.read(reader, recipe.data.model_copy(update={"fold": fold}))
    _check(recipe, faces, encoder, lake)
    if recipe.mae is None or recipe.weights is not None:
        return TrainingData(faces, encoder, None)
    chosen = encoder.pictures(encoder.for_encoder())
    if recipe.mae.data:
        every = [_source(reader, source, f"mae.data.{n}", encoder, fold) for n, source in enumerate(recipe.mae.data)]
        chosen = Pictures(tuple(part for each in every for part in each.parts))
    return TrainingData(faces, encoder, chosen)


def encoder_fold(recipe: Recipe) -> int:
    return 0 if recipe.encoder_fold == "official" else recipe.data.fold


def encoder_learns(recipe: Recipe, data: TrainingData) -> bool:
    """Whether the encoder is trained on the faces of `data`, be it as a source of pretraining."""
    pretraining = data.pretraining.parts if data.pretraining else ()
    trained = recipe.finetune is not None or recipe.clips is not None
    return trained or any(crops is data.faces.crops for crops, _ in pretraining)


def _source(reader: CropReader, source: MaeSource, where: str, data: FaceSet, fold: int) -> Pictures:
    """The faces of a source: of training videos if it names a dataset, else all.

    `data`: the faces of the other stages; in their dataset the encoder is trained in `fold`, in others officially.
    """
    if source.dataset is None:
        partition = reader.partition(source, where)
        if partition["archive"] == data.source["archive"]:
            raise UsageError(
                f"{where} takes all faces of the archive {partition['archive']}, also those that data validates on: "
                f"set {where}.dataset, then it takes the training videos alone"
            )
        crops = reader.crops(partition)
        return Pictures(((crops, np.arange(len(crops.keys))),))
    same = source.dataset == data.origin["dataset"]
    faces = faces_.read(reader, DataOptions(**source.model_dump(), fold=fold if same else 0), where)
    chosen = faces.for_encoder()
    if faces.crops is data.crops:  # labelled by two datasets: what validates by either is not seen
        chosen &= ~np.isin(faces.picture, data.picture[np.any(list(data.validation.values()), axis=0)])
    if not chosen.any():
        raise UsageError(
            f"{where}: no face of {faces.source} in the lake {reader.lake.url} is of a training video of the dataset "
            f"{source.dataset}: check its archive, and that names of videos fit {source.train}"
        )
    return faces.pictures(chosen)


def _check(recipe: Recipe, faces: FaceSet, encoder: FaceSet, lake: Lake) -> None:
    where = f"no face of {faces.source} in the lake {lake.url}"
    if recipe.finetune is not None:
        _check_task("expr", recipe.data, encoder, where)
        if not (encoder.for_encoder() & encoder.annotated("expr")).any():
            raise UsageError(
                f"{where} can train the encoder: every video with a training label for expr also validates a task, "
                "name fewer with data.validation"
            )
    if recipe.clips is not None:
        _check_task("expr", recipe.data, faces, where)
    for task in recipe.stages:
        _check_task(task, recipe.data, faces, where)
        _warn_of_absent(task, faces)
    if encoder.withheld:
        log.get("train").warning(
            "videos kept from the encoder's training, they validate a task", videos=encoder.withheld
        )


def _check_task(task: str, data: DataOptions, faces: FaceSet, where: str) -> None:
    if not faces.stated[task]:
        raise UsageError(
            f"the dataset {faces.origin['dataset']} has no labels of {task}: leave {task} out of the recipe, or name "
            "another dataset with data.dataset"
        )
    if not (faces.train[task] & faces.annotated(task)).any():
        raise UsageError(
            f"{where} has a training label for {task}: check that the labelled videos ({data.train}) are ingested "
            "under the names that the labels have"
        )


def _warn_of_absent(task: str, faces: FaceSet) -> None:
    """Says which classes no training label, or no validation label, has."""
    for split, members in (("train", faces.train), ("validation", faces.validation)):
        rows = members[task] & faces.annotated(task)
        absent = TASKS[task].absent(faces.labels[task][rows])
        if rows.any() and absent:
            log.get("train").warning(
                f"classes of {task} that no label of the {split} videos has", classes=absent, fold=faces.fold
            )
