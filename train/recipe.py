"""The recipe of a training run: one file, checked as a whole before anything starts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common import config
from common.bundle.manifest import BundleManifest, Preprocess
from common.config import Config
from common.crops import Crop
from common.errors import UsageError
from common.tasks import TASKS, TaskName
from train.models.initial import InitialWeights
from train.models.preprocess import channels
from train.models.registry import AnyEncoder, AnyHead
from train.models.vit import DecoderOptions


class Source(Config):
    """Which labels and faces of a lake to use."""

    dataset: str | None = Field(None, description="labels of this dataset; the only one in the lake unless named")
    archive: str | None = Field(None, description="faces of this archive; the only one in the lake unless named")
    faces: Literal["ingested", "shipped"] | None = Field(
        None, description="faces that mien found, or crops that the dataset ships; whichever there are unless named"
    )
    ingest: str | None = Field(None, description="faces of this ingest configuration; the only one unless named")


class Selection(Source):
    """The same, with the videos to validate on."""

    fold: int = Field(
        0,
        ge=0,
        le=4,
        description="of cross-validation: 0 is the official split; in 1 to 4 the videos with this fold in `labels` "
        "validate and all others train",
    )
    validation: str = Field("*", description="labels of validation videos with such names, a pattern like sub_*")


class DataOptions(Selection):
    """The same, with a pattern for the videos to train on."""

    train: str = Field("*", description="labels of training videos with such names, a pattern")


class MaeSource(Source):
    """Faces for pretraining: those of a dataset's training videos or, as no labels are needed, all of an archive."""

    dataset: str | None = Field(None, description="its training videos alone; null: all faces of the archive")
    train: str = Field("*", description="training videos with such names, a pattern; only with a dataset")

    @model_validator(mode="after")
    def _labelled(self) -> MaeSource:
        if self.dataset is None and self.train != "*":
            raise ValueError("should name the dataset whose training videos train chooses from")
        return self


class AugmentOptions(Config):
    """Random changes of pictures that keep their labels valid."""

    area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="cut out a random share of the area between these two, scaled to the whole; null: none"
    )
    shift: int = Field(0, ge=0, description="farthest move in either direction, px of the encoder's input")
    flip: bool = Field(False, description="mirror every other picture")
    light: float = Field(0.0, ge=0, lt=1, description="brightness and contrast change by up to this share")


class StageOptions(Config):
    """AdamW. The learning rate rises linearly, then falls along a cosine. An epoch is one pass over all examples."""

    steps: int | None = Field(None, gt=0, description="how many steps the stage takes; or set epochs")
    epochs: float | None = Field(None, gt=0, description="how many epochs the stage takes; or set steps")
    batch: int = Field(gt=0, description="examples a step: faces, or windows of a head that takes windows")
    drop_last: bool = Field(
        False,
        description="leave out the last examples of an epoch if they fill no batch; else the next epoch fills it up",
    )
    lr: float = Field(gt=0, description="highest learning rate")
    warmup: int | None = Field(None, ge=0, description="steps until the learning rate is at its highest")
    warmup_epochs: float | None = Field(None, ge=0, description="the same in epochs; neither: no warm-up")
    floor: float = Field(0.0, ge=0, description="learning rate at the start of the warm-up and at the cosine's end")
    cosine_epochs: float | None = Field(
        None, gt=0, description="epochs that the cosine takes, some of which may be cut off; null: those that are left"
    )
    weight_decay: float = Field(0.05, ge=0, description="on matrices and tokens; biases and norms have none")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: any")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("should set either steps or epochs, and the other to null")
        if None not in (self.warmup, self.warmup_epochs):
            raise ValueError("should set warmup or warmup_epochs, and the other to null")
        if self.floor > self.lr:
            raise ValueError("should have a floor that is not above lr")
        return self


class SupervisedStage(StageOptions):
    """A stage with labels, which can be validated on its way."""

    select: Literal["last", "best"] = Field(
        "last",
        description="keep the weights of the last step, or those with the best score on the validation videos: mean "
        "of both CCCs, macro-F1 of expressions, mean F1 of action units",
    )
    validate_every: int | None = Field(None, gt=0, description="steps from one validation to the next; null: none")
    validations_per_epoch: int | None = Field(None, gt=0, description="the same as a number of times in each epoch")

    @property
    def validates(self) -> bool:
        return (self.validate_every or self.validations_per_epoch) is not None

    @model_validator(mode="after")
    def _validated(self) -> Self:
        if None not in (self.validate_every, self.validations_per_epoch):
            raise ValueError("should set validate_every or validations_per_epoch, and the other to null")
        if self.select == "best" and not self.validates:
            raise ValueError("should be validated to select the best: it needs validations_per_epoch or validate_every")
        return self


class MaeStage(StageOptions):
    """Masked autoencoding of faces, by default of those of the training videos of `data`."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's")
    data: tuple[MaeSource, ...] = Field(
        (),
        description="faces to take, together, in place of those of `data`: sections with dataset (its training videos "
        "alone; without it all faces of the archive), archive, faces, ingest and train",
    )
    decoder: DecoderOptions = DecoderOptions()
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of a picture's patches that are hidden")
    init: InitialWeights | None = Field(
        None, description="weights to go on from: the encoder's and, where the file has one, the decoder's"
    )
    loss: Literal["hidden", "all"] = Field("hidden", description="the patches whose error counts")
    norm_pix: bool = Field(False, description="predict patches made zero-mean and unit-variance, not plain pixels")
    augment: AugmentOptions = AugmentOptions()


class FinetuneStage(SupervisedStage):
    """Expression labels; all weights of the encoder are tuned."""

    augment: AugmentOptions = AugmentOptions()


class HeadStage(SupervisedStage):
    """Heads of one shape over the fine-tuned encoder's features, one for each of the tasks, trained one by one.

    The batch is counted in what the head takes: windows, or single faces.
    """

    weight_decay: float = Field(1e-5, ge=0, description="on matrices and tokens; biases and norms have none")
    tasks: tuple[TaskName, ...] = Field(tuple(TASKS), min_length=1, description="what is trained: a head for each")
    model: AnyHead
    noise: float = Field(0.0, ge=0, description="standard deviation of noise on the features in training")

    @model_validator(mode="after")
    def _of_frames(self) -> Self:
        if self.model.of_clips:
            raise ValueError(
                f"should have a model of frames: {self.model.kind} judges clips, and trains its encoder too"
            )
        return self


class Recipe(Config):
    """A whole run; `init` are the encoder's weights to start fine-tuning from, instead of pretraining.

    `data` is for fine-tuning, heads and evaluation, and for pretraining unless `mae.data` names others.
    """

    name: Annotated[str, BundleManifest.model_fields["name"], Field(description="of the bundle")]
    seed: int = Field(0, ge=0, description="of all that is random")
    intended_use: str = Field(description="what the bundle is for, as it says itself")
    licence: str = Field(description="of the weights, as the training data allows")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it fast, float32 elsewhere"
    )
    zero: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed's ZeRO stage")
    data: DataOptions = DataOptions()
    crop: Crop = Crop(size=112)
    preprocess: Preprocess
    encoder: AnyEncoder
    init: Literal["random"] | InitialWeights | None = Field(
        None,
        description="weights of an encoder to start from, in place of pretraining; init: FILE is a short form; random: "
        "none, also for an encoder that no stage trains",
    )
    mae: MaeStage | None = Field(None, description="pretraining of the encoder by masked pictures; null: none")
    finetune: FinetuneStage | None = Field(description="tuning of all the encoder's weights; null: none")
    encoder_fold: Literal["own", "official"] = Field(
        "own",
        description="own: the encoder is trained in the fold of `data`. official: in fold 0, once for all folds, so "
        "that it has seen videos that validate in others",
    )
    heads: dict[str, HeadStage] = Field(min_length=1, description="groups of heads of one shape, by a name of your own")

    @property
    def weights(self) -> InitialWeights | None:
        """What the encoder starts from; None: random weights."""
        return None if self.init == "random" else self.init

    @property
    def stages(self) -> dict[str, HeadStage]:
        """By task, how its head is trained."""
        return {task: stage for stage in self.heads.values() for task in stage.tasks}

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        x, y, side = self.preprocess.crop
        if min(x, y) < 0 or side < 1 or max(x, y) + side > self.crop.size:
            raise ValueError("preprocess.crop must lie inside the aligned crop")
        wanted, made = self.encoder.input, (channels(self.preprocess), self.preprocess.size)
        if wanted != made:
            raise ValueError(
                f"the encoder takes pictures of {wanted[0]} channels and {wanted[1]} px, preprocess makes {made[0]} "
                f"channels and {made[1]} px"
            )
        if self.mae is not None and not self.encoder.can_be_masked:
            raise ValueError(f"mae cannot pretrain an encoder of kind {self.encoder.kind}: leave mae out")
        if self.finetune is None and self.mae is None and self.init is None:
            raise ValueError(
                "finetune: null leaves the encoder untrained: give it mae or init, or say init: random if it is meant"
            )
        mean, std = self.preprocess.mean, self.preprocess.std
        if (mean, std) != (None, None) and {len(mean or ()), len(std or ())} != {channels(self.preprocess)}:
            raise ValueError("preprocess.mean and preprocess.std must both hold a value for each channel")
        if sum(len(stage.tasks) for stage in self.heads.values()) != len(self.stages):
            raise ValueError("heads should name each task once")
        return self


def load(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a name in `train/recipes` or in a YAML file, with `key=value` overrides. Raises UsageError."""
    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        folder = resources.files("train") / "recipes"
        known = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
        if name not in known:
            raise UsageError(f"no recipe {name!r}: name one of {', '.join(known)}, or a .yaml file")
        file = Path(str(folder / f"{name}.yaml"))
    return config.load(Recipe, file, overrides)
