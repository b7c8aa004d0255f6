"""DFER-CLIP (Zhao & Patras 2023): a clip's feature is compared with the text feature of each class.

The image tower of CLIP gives a feature for each of a clip's frames, and a temporal model makes one feature of them.
Logits are its cosines with the text features of the classes' prompts, divided by a fixed temperature. `DferClip` is all
of this, for training. `ClipHead` is what a bundle keeps: the temporal model and the text features, which no longer
change. The other methods that the paper compares are options of the same model; docs/decisions.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.errors import UsageError
from common.windows import Windowing
from train.models import initial
from train.models.clip import ClipOptions
from train.models.initial import InitialWeights
from train.models.options import HeadOptions
from train.models.prompts import PromptLearner, PromptOptions, tokens
from train.models.temporal import FrameMean, TemporalTransformer
from train.models.text_tower import VOCABULARY, TextOptions, TextTower


class ClipWindowing(Windowing):
    """The clips that the head takes: `window` frames, at the rate that these frames had in the clips of its training.

    A clip of T seconds gives `window` frames over its whole length, so `fps` is window / T. It is null in recipes
    alone: a bundle states it.
    """

    fps: float | None = Field(  # type: ignore[assignment]
        None, gt=0, description="frames a second; null: window / the seconds that a training clip lasts in the median"
    )
    window: int = Field(16, gt=0, description="frames of a clip")
    stride: int = Field(4, gt=0, description="frames from one clip of a track to the next, in scoring")
    gaps: Literal["repeat"] = Field("repeat", description="where a frame lacks the face, the last one is repeated")


class DferClipOptions(HeadOptions):
    """Shape of the head: the temporal model, and what its feature is compared with."""

    kind: Literal["dfer_clip"] = "dfer_clip"
    windowing: ClipWindowing = ClipWindowing()
    depth: int = Field(1, ge=0, description="blocks of the temporal model; 0: the mean of the frames")
    heads: int = Field(8, ge=1, description="attention heads of a block")
    dim_head: int = Field(64, gt=0, description="width of a head")
    mlp: int = Field(1024, gt=0, description="width of a block's perceptron")
    classifier: Literal["text", "linear"] = Field(
        "text", description="text: cosines with the classes' text features; linear: a layer, without texts"
    )
    temperature: float = Field(0.01, gt=0, description="cosines are divided by it")
    prompts: PromptOptions = PromptOptions()
    text: TextOptions = TextOptions()

    of_clips: ClassVar[bool] = True

    def build(self, features: int, outputs: int) -> ClipHead:
        """The head for scoring. Only Co-CoOp's still needs the text tower, as its texts depend on the clip.

        Raises ValueError for options that do not state how long clips are.
        """
        if self.windowing.fps is None:
            raise ValueError("windowing.fps is null")
        classifier: nn.Module
        if self.classifier == "linear":
            classifier = nn.Linear(features, outputs)
        elif self.prompts.conditional:
            classifier = LearnedTexts(self, features, outputs)
        else:
            classifier = FixedTexts(torch.zeros(outputs, features), self.temperature)
        return ClipHead(self.temporal(features), classifier)

    def stated(self, classes: Sequence[str], seconds: float) -> DferClipOptions:
        """The same with the descriptions of these classes and the frame rate of clips of this length written out.

        Bundles and digests hold these. Raises UsageError where neither says how long clips are.
        """
        windowing = self.windowing
        if windowing.fps is None:
            if not seconds:
                raise UsageError(
                    "most training clips are single frames: say with clips.model.windowing.fps how long clips are"
                )
            windowing = windowing.model_copy(update={"fps": round(windowing.window / seconds, 3)})
        return self.model_copy(update={"prompts": self.prompts.stated(classes), "windowing": windowing})

    def temporal(self, features: int) -> nn.Module:
        if not self.depth:
            return FrameMean()
        return TemporalTransformer(features, self.windowing.window, self.depth, self.heads, self.dim_head, self.mlp)


class ClipHead(nn.Module):
    """Features [N, w, D] and valid bool [N, w] -> logits of the clip, the same at each position: [N, w, K].

    A position that is not valid shows the last valid frame before it: in training, too, the last frame of a clip that
    is too short is repeated. The first position must be valid.
    """

    def __init__(self, temporal: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.temporal, self.classifier = temporal, classifier

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        logits = self.classifier(self.temporal(_held(features, valid)))
        return logits[:, None].expand(-1, features.shape[1], -1)


def _held(features: Tensor, valid: Tensor) -> Tensor:
    """Features [N, w, D] with those of the last valid position in place of those that are not valid."""
    place = torch.arange(valid.shape[1], device=valid.device)
    seen = valid[:, None] & (place <= place[:, None])  # [N, w, w]
    latest = torch.where(seen, place, 0).amax(-1)
    return features.gather(1, latest[..., None].expand(-1, -1, features.shape[2]))


class FixedTexts(nn.Module):
    """Logits of clips [N, D] -> [N, K] by text features [K, D] that were computed before."""

    texts: Tensor

    def __init__(self, texts: Tensor, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("texts", texts)

    def forward(self, clips: Tensor) -> Tensor:
        return _cosines(clips, self.texts) / self.temperature


class LearnedTexts(nn.Module):
    """Logits of clips [N, D] -> [N, K] by text features of prompts, some of whose vectors are learned.

    The text tower is run once for all clips; in Co-CoOp, whose prompts depend on the clip, once for each clip.
    """

    def __init__(self, options: DferClipOptions, features: int, classes: int) -> None:
        super().__init__()
        width = options.text.width
        self.temperature = options.temperature
        self.prompts = PromptLearner(options.prompts, classes, width)
        self.tower = options.text.build(features)
        self.shift: nn.Module | None = None
        if options.prompts.conditional:
            hidden = max(1, features // 16)  # as in Co-CoOp's code
            self.shift = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, clips: Tensor) -> Tensor:
        texts = self._texts() if self.shift is None else self._texts_of(self.shift(nn.functional.normalize(clips)))
        return _cosines(clips, texts) / self.temperature

    def _texts(self) -> Tensor:
        """Text features [K, D]."""
        return self.tower(self.prompts(), self.prompts.ends)

    def _texts_of(self, shift: Tensor) -> Tensor:
        """Text features [N, K, D] with the context shifted by [N, W]."""
        prompts = self.prompts(shift)
        ends = self.prompts.ends.expand(prompts.shape[:2]).flatten()
        return self.tower(prompts.flatten(0, 1), ends).unflatten(0, prompts.shape[:2])

    @torch.no_grad()
    def fixed(self) -> nn.Module:
        """The same for scoring: with the text features as they are now, where they do not depend on the clip."""
        if self.shift is not None:
            return self
        return FixedTexts(nn.functional.normalize(self._texts(), dim=-1), self.temperature)


def _cosines(clips: Tensor, texts: Tensor) -> Tensor:
    """Cosines [N, K] of clips [N, D] with texts [K, D] or [N, K, D], in float32: they are enlarged a hundred times."""
    with torch.autocast(clips.device.type, enabled=False):
        one, other = (nn.functional.normalize(each.float(), dim=-1) for each in (clips, texts))
        return (other @ one[..., None])[..., 0]


class DferClip(nn.Module):
    """The whole model: clips of prepared pictures float [N, w, C, s, s] -> logits [N, K].

    A clip of fewer frames than the window is filled with its last one.
    """

    def __init__(self, image: nn.Module, temporal: nn.Module, classifier: LearnedTexts | nn.Linear) -> None:
        super().__init__()
        self.image, self.temporal, self.classifier = image, temporal, classifier

    def forward(self, clips: Tensor) -> Tensor:
        features = self.image(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self.classifier(self.temporal(features))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be trained, by role: image, temporal, prompt (context, and Co-CoOp's network) or linear.

        A role without parameters is left out. The text tower has none: it stays frozen.
        """
        roles: dict[str, list[nn.Parameter]] = {
            "image": list(self.image.parameters()),
            "temporal": list(self.temporal.parameters()),
            "linear" if isinstance(self.classifier, nn.Linear) else "prompt": [
                parameter for parameter in self.classifier.parameters() if parameter.requires_grad
            ],
        }
        return {role: parameters for role, parameters in roles.items() if parameters}

    def head(self) -> ClipHead:
        """The head for scoring and for a bundle, of the weights as they are now: it shares those of the temporal model.

        Its text features are computed here, once.
        """
        classifier = self.classifier
        return ClipHead(self.temporal, classifier if isinstance(classifier, nn.Linear) else classifier.fixed())


def build(
    encoder: ClipOptions, options: DferClipOptions, classes: Sequence[str], weights: InitialWeights | None = None
) -> tuple[DferClip, str | None]:
    """The model, and the SHA-256 of the file of its starting weights; without a file, they are random.

    The file is one of a whole CLIP: both towers start from it. A model without texts takes its image tower alone.
    Raises UsageError for a file or a prompt that does not fit; MienError if the Hugging Face hub fails.
    """
    image = encoder.build()
    temporal = options.temporal(encoder.features)
    if options.classifier == "linear":
        digest = initial.load(image, encoder.adopt, weights) if weights else None
        return DferClip(image, temporal, nn.Linear(encoder.features, len(classes))), digest
    if encoder.quick_gelu != options.text.quick_gelu:
        raise UsageError("quick_gelu of the encoder and of its head's text should be the same: they are of one CLIP")
    classifier = LearnedTexts(options, encoder.features, len(classes))
    table = nn.Embedding(VOCABULARY, options.text.width)
    digest = initial.load(*_both(encoder, image, options.text, classifier.tower, table), weights) if weights else None
    classifier.prompts.say(tokens(classes, options.prompts), table.weight)
    return DferClip(image, temporal, classifier), digest


def _both(
    encoder: ClipOptions, image: nn.Module, text: TextOptions, tower: TextTower, table: nn.Embedding
) -> tuple[nn.Module, initial.Adopt]:
    """Both towers and the token vectors as one network, and how a file's tensors are named in it."""

    def adopt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        of_text, vectors = text.adopt(tensors)
        named = {f"image.{name}": tensor for name, tensor in encoder.adopt(tensors).items()}
        named |= {f"text.{name}": tensor for name, tensor in of_text.items()}
        return named if vectors is None else named | {"tokens.weight": vectors}

    return nn.ModuleDict({"image": image, "text": tower, "tokens": table}), adopt
