"""What a training run is: one file, checked as a whole before anything starts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from common import config
from common.bundle import BundleManifest, Crop, Preprocess, Task
from common.config import Config
from common.errors import UsageError
from train.models.preprocess import channels
from train.models.tcn_transformer import TemporalOptions
from train.models.vit import DecoderOptions, EncoderOptions


class Selection(Config):
    """Which labels and faces of a lake; `validation` is a pattern of videos' names."""

    dataset: str | None = Field(None, description="labels of this dataset; the only one in the lake unless named")
    archive: str | None = Field(None, description="faces of this archive; the only one in the lake unless named")
    ingest: str | None = Field(None, description="faces of this ingest configuration; the only one unless named")
    validation: str = "*"


class DataOptions(Selection):
    """The same with the videos to train on, a pattern of names too, and how windows are cut."""

    train: str = "*"
    fps: float = Field(30.0, gt=0, description="frame rate of the windows, 1/s")
    window: int = Field(300, gt=0, description="frames")
    stride: int = Field(200, gt=0, description="frames")
    gaps: Literal["repeat", "mask"] = "repeat"

    @model_validator(mode="after")
    def _covers(self) -> DataOptions:
        if self.stride > self.window:
            raise ValueError("stride must not exceed window, or frames would be left out")
        return self


class AugmentOptions(Config):
    """Changes of a picture that leave its labels true."""

    shift: int = Field(0, ge=0, description="farthest move in either direction, px of the encoder's input")
    flip: bool = Field(False, description="mirror every other picture")
    light: float = Field(0.0, ge=0, lt=1, description="brightness and contrast change by up to this share")


class StageOptions(Config):
    """AdamW with a linear warm-up and a cosine to 0, both counted in steps."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    warmup: int = Field(0, ge=0, description="steps")
    weight_decay: float = Field(0.05, ge=0, description="on matrices; vectors (biases, norms) have none")
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class MaeStage(StageOptions):
    """Masked autoencoding of all faces of the training videos."""

    betas: tuple[float, float] = (0.9, 0.95)
    decoder: DecoderOptions = DecoderOptions()
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    norm_pix: bool = Field(False, description="predict patches made zero-mean and unit-variance, not plain pixels")
    augment: AugmentOptions = AugmentOptions()


class FinetuneStage(StageOptions):
    """Expression labels; all weights of the encoder are tuned."""

    augment: AugmentOptions = AugmentOptions()


class TemporalStage(StageOptions):
    """One model per task over the fine-tuned encoder's features; the batch is counted in windows."""

    weight_decay: float = Field(1e-5, ge=0, description="on matrices; vectors (biases, norms) have none")
    tasks: tuple[Task, ...] = Field(("va", "expr", "au"), min_length=1)
    model: TemporalOptions = TemporalOptions()
    noise: float = Field(0.0, ge=0, description="standard deviation of noise on the features in training")

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("should name each task once")
        return tasks


class Recipe(Config):
    """A whole run; `init` is a file of encoder weights to start fine-tuning from, instead of pretraining."""

    name: Annotated[str, BundleManifest.model_fields["name"]]
    seed: int = Field(0, ge=0)
    intended_use: str
    licence: str = Field(description="of the weights, as the training data allows")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it fast, float32 elsewhere"
    )
    zero: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed's ZeRO stage")
    data: DataOptions = DataOptions()
    crop: Crop = Crop(size=112)
    preprocess: Preprocess
    encoder: EncoderOptions = EncoderOptions()
    init: Path | None = None
    mae: MaeStage | None = None
    finetune: FinetuneStage
    temporal: TemporalStage

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        x, y, side = self.preprocess.crop
        if min(x, y) < 0 or side < 1 or max(x, y) + side > self.crop.size:
            raise ValueError("preprocess.crop must lie inside the aligned crop")
        if (self.encoder.image, self.encoder.channels) != (self.preprocess.size, channels(self.preprocess)):
            raise ValueError("encoder.image and encoder.channels must be what preprocess makes")
        mean, std = self.preprocess.mean, self.preprocess.std
        if (mean, std) != (None, None) and {len(mean or ()), len(std or ())} != {channels(self.preprocess)}:
            raise ValueError("preprocess.mean and preprocess.std must both hold a value for each of encoder.channels")
        if self.temporal.model.features != self.encoder.dim:
            raise ValueError("temporal.model.features must be encoder.dim")
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
