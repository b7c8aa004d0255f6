"""The options of each stage of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.config import Config
from common.tasks import TASKS, TaskName
from train.data.sources import MaeSource
from train.models.dfer_clip import DferClipOptions
from train.models.initial import InitialWeights
from train.models.registry import AnyHead
from train.models.vit import DecoderOptions


class AugmentOptions(Config):
    """Random changes of pictures that keep their labels valid."""

    area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="cut out a random share of the area between these two, scaled to the whole; null: none"
    )
    shift: int = Field(0, ge=0, description="farthest move in either direction, px of the encoder's input")
    flip: bool = Field(False, description="mirror every other picture")
    light: float = Field(0.0, ge=0, lt=1, description="brightness and contrast change by up to this share")
    brightness: float = Field(0.0, ge=0, lt=1, description="brightness alone changes by up to this share")
    rotate: float = Field(0.0, ge=0, lt=180, description="farthest turn in either direction, degrees")


class StageOptions(Config):
    """How a stage learns. The learning rate rises linearly, then falls along a cosine or in steps.

    An epoch is one pass over all examples.
    """

    steps: int | None = Field(None, gt=0, description="how many steps the stage takes; or set epochs")
    epochs: float | None = Field(None, gt=0, description="how many epochs the stage takes; or set steps")
    batch: int = Field(gt=0, description="examples a step: faces, or windows of a head that takes windows")
    micro_batch: int | None = Field(
        None, gt=0, description="about how many of them a process computes at once, as memory allows; null: all it has"
    )
    drop_last: bool = Field(
        False,
        description="leave out the last examples of an epoch if they fill no batch; else the next epoch fills it up",
    )
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with momentum")
    lr: float = Field(gt=0, description="highest learning rate")
    warmup: int | None = Field(None, ge=0, description="steps until the learning rate is at its highest")
    warmup_epochs: float | None = Field(None, ge=0, description="the same in epochs; neither: no warm-up")
    floor: float = Field(0.0, ge=0, description="learning rate at the start of the warm-up and at the cosine's end")
    cosine_epochs: float | None = Field(
        None, gt=0, description="epochs that the cosine takes, some of which may be cut off; null: those that are left"
    )
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="epochs after which the learning rate falls to a tenth, in place of the cosine"
    )
    weight_decay: float = Field(
        0.05, ge=0, description="adamw's: on matrices and tokens, biases and norms have none; sgd's: on all"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="adamw's")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd's")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: any")
    average: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep an exponential moving average of the weights, of this decay, in place of the weights "
        "themselves; null: none",
    )

    def settings(self, *left_out: str) -> dict[str, Any]:
        """What decides the result of the stage, but for the keys that are left out."""
        return self.model_dump(mode="json", exclude={"micro_batch", *left_out})

    def rate_of(self, part: str) -> float:
        """The highest learning rate of this part of the objective."""
        return self.lr

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("should set either steps or epochs, and the other to null")
        if None not in (self.warmup, self.warmup_epochs):
            raise ValueError("should set warmup or warmup_epochs, and the other to null")
        if self.floor > self.lr:
            raise ValueError("should have a floor that is not above lr")
        if self.milestones and (self.floor or self.cosine_epochs):
            raise ValueError("should set either milestones or a cosine's floor and cosine_epochs")
        return self


Select = Annotated[
    Literal["last", "best"],
    Field(
        description="keep the weights of the last step, or those with the best score on the validation videos: mean "
        "of both CCCs, macro-F1 of expressions, mean F1 of action units"
    ),
]


class SupervisedStage(StageOptions):
    """A stage with labels, which can be validated on its way."""

    select: Literal["last", "best", "test"] = "last"
    validate_every: int | None = Field(None, gt=0, description="steps from one validation to the next; null: none")
    validations_per_epoch: int | None = Field(None, gt=0, description="the same as a number of times in each epoch")

    @property
    def validates(self) -> bool:
        return (self.validate_every or self.validations_per_epoch) is not None

    @model_validator(mode="after")
    def _validated(self) -> Self:
        if None not in (self.validate_every, self.validations_per_epoch):
            raise ValueError("should set validate_every or validations_per_epoch, and the other to null")
        if self.select != "last" and not self.validates:
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

    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each layer learns at this share of the rate of the layer after it"
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="share of examples that skip the last block, from 0 in the first block on"
    )
    select: Select = "last"
    augment: AugmentOptions = AugmentOptions()


class HeadStage(SupervisedStage):
    """Heads of one shape over the fine-tuned encoder's features, one for each of the tasks, trained one by one.

    The batch is counted in what the head takes: windows, or single faces.
    """

    micro_batch: None = Field(None, description="none: the loss of valence and arousal is of a batch as a whole")
    weight_decay: float = Field(1e-5, ge=0, description="as of the other stages")
    select: Select = "last"
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


class ClipCut(Config):
    """How frames with labels of their own become clips: a clip has one label throughout.

    A label of a whole clip makes one clip, however long.
    """

    shortest: float = Field(0.5, ge=0, description="seconds; what is shorter is left out")
    longest: float = Field(4.0, gt=0, description="seconds; what is longer is cut into parts of equal length")


class ClipStage(SupervisedStage):
    """DFER-CLIP and the methods that its paper compares: the encoder and a head that judges clips, trained together.

    The batch is counted in clips.
    """

    optimiser: Literal["adamw", "sgd"] = Field("sgd", description="AdamW, or SGD with momentum")
    weight_decay: float = Field(1e-4, ge=0, description="as of the other stages")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: any")
    select: Literal["last", "best", "test"] = Field(
        "last",
        description="keep the weights of the last step; the best on training videos that are held out; or the best on "
        "the very videos that evaluation measures, as DFER-CLIP's code does: the metrics are then too high",
    )
    by: Literal["war", "uar"] = Field("war", description="the metric that is best")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of the training videos held out by select: best")
    lr_of: dict[Literal["image", "temporal", "prompt", "linear"], Annotated[float, Field(ge=0)]] = Field(
        {}, description="learning rates of these parts of the model, in place of lr; 0: the part is not trained"
    )
    classes: tuple[str, ...] = Field(
        tuple(name for name in TASKS["expr"].outputs if name != "other"),
        min_length=2,
        description="expressions to tell apart; clips of others are left out",
    )
    model: DferClipOptions = DferClipOptions()
    cut: ClipCut = ClipCut()
    augment: AugmentOptions = AugmentOptions()

    def rate_of(self, part: str) -> float:
        return next((rate for name, rate in self.lr_of.items() if name == part), self.lr)

    @property
    def frozen(self) -> set[str]:
        """The parts that are not trained."""
        return {name for name, rate in self.lr_of.items() if not rate}

    @model_validator(mode="after")
    def _named(self) -> ClipStage:
        unknown = [name for name in self.classes if name not in TASKS["expr"].known]
        if unknown or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"should have classes of {', '.join(TASKS['expr'].known)}, each once")
        return self
