"""The recipe of a training run: one file, checked as a whole before anything starts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common import config
from common.bundle.manifest import BundleManifest, Preprocess
from common.config import Config
from common.crops import Crop
from common.errors import UsageError
from train.data.sources import DataOptions
from train.models.clip import ClipOptions
from train.models.initial import InitialWeights
from train.models.options import VisionTransformerOptions
from train.models.preprocess import channels
from train.models.registry import AnyEncoder
from train.stage_options import ClipStage, FinetuneStage, HeadStage, MaeStage


class CheckpointOptions(Config):
    """When a stage keeps its state, so that it can go on from there. It changes no result."""

    minutes: float = Field(10.0, gt=0, description="from one checkpoint to the next")
    steps: int | None = Field(None, gt=0, description="also after each so many steps; null: no")
    kept: int = Field(2, ge=1, description="how many are kept: the newest ones")


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
    zero: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed's ZeRO stage; a process by itself trains with 0")
    compile: bool = Field(
        False,
        description="train what torch.compile makes of the networks: faster on a GPU, after minutes at each stage's "
        "start; needs a C compiler",
    )
    checkpoints: CheckpointOptions = CheckpointOptions()
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
    finetune: FinetuneStage | None = Field(None, description="tuning of all the encoder's weights; null: none")
    encoder_fold: Literal["own", "official"] = Field(
        "own",
        description="own: the encoder is trained in the fold of `data`. official: in fold 0, once for all folds, so "
        "that it has seen videos that validate in others",
    )
    heads: dict[str, HeadStage] = Field({}, description="groups of heads of one shape, by a name of your own")
    clips: ClipStage | None = Field(None, description="training on clips, in place of all other stages; null: none")

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
        self._check_stages()
        mean, std = self.preprocess.mean, self.preprocess.std
        if (mean, std) != (None, None) and {len(mean or ()), len(std or ())} != {channels(self.preprocess)}:
            raise ValueError("preprocess.mean and preprocess.std must both hold a value for each channel")
        if sum(len(stage.tasks) for stage in self.heads.values()) != len(self.stages):
            raise ValueError("heads should name each task once")
        return self

    def _check_stages(self) -> None:
        """Raises ValueError for stages that do not go together."""
        if self.clips is None:
            if not self.heads:
                raise ValueError("a recipe needs heads, or clips")
            if self.mae is not None and not self.encoder.can_be_masked:
                raise ValueError(f"mae cannot pretrain an encoder of kind {self.encoder.kind}: leave mae out")
            layers = isinstance(self.encoder, VisionTransformerOptions)
            if self.finetune is not None and not layers and (self.finetune.layer_decay < 1 or self.finetune.drop_path):
                raise ValueError(
                    f"finetune's layer_decay and drop_path need an encoder of kind vit or clip, not {self.encoder.kind}"
                )
            if self.finetune is None and self.mae is None and self.init is None:
                raise ValueError(
                    "finetune: null leaves the encoder untrained: give it mae or init, or say init: random if it is "
                    "meant"
                )
            return
        if self.heads or self.mae is not None or self.finetune is not None or self.encoder_fold != "own":
            raise ValueError(
                "clips trains the encoder and its head together, in the fold of data: leave out mae, finetune, heads "
                "and encoder_fold"
            )
        if not isinstance(self.encoder, ClipOptions):
            raise ValueError(f"clips needs an encoder of kind clip, not {self.encoder.kind}")
        if self.init is None:
            raise ValueError("clips starts from a whole CLIP: name its file with init, or say init: random")


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
