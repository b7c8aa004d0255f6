"""The prompts of the classes: context vectors that are learned, beside the vectors of a text of each class.

Context as in CoOp (Zhou et al. 2022, "Learning to Prompt for Vision-Language Models"). open_clip tokenizes the texts;
its vocabulary lies in its package.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from common.config import Config
from common.errors import UsageError
from train.models.text_tower import LENGTH

DESCRIPTIONS = "expressions.yaml"  # beside this module


def _read(value: Any) -> Any:
    """The texts of a YAML file, if `value` is its path."""
    if not isinstance(value, str):
        return value
    try:
        texts = yaml.safe_load(Path(value).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("is no YAML file") from None
    if not isinstance(texts, dict):
        raise ValueError("should hold a text for each class: write 'class: text' lines")
    return texts


class PromptOptions(Config):
    """What a prompt says: learned context, and a text of the class before, around or behind it."""

    text: Literal["description", "name", "template"] = Field(
        "description", description="of a class: its facial behaviour, its name alone, or the template with its name"
    )
    template: str = Field("an expression of {}.", description="the text of a class, with {} where its name goes")
    descriptions: Annotated[dict[str, str] | None, BeforeValidator(_read)] = Field(
        None, description="facial behaviour by class: a YAML file, or the texts themselves; null: mien's own"
    )
    context: int = Field(8, ge=0, description="learned vectors of a prompt; 0: none")
    specific: bool = Field(True, description="each class learns context of its own; false: all share it")
    position: Literal["front", "middle", "end"] = Field(
        "front",
        description="front: the context stands before the text (what the paper's code calls end); middle: half of it "
        "before and half behind; end: behind",
    )
    conditional: bool = Field(
        False, description="the context is shifted by what a small network makes of the clip's feature, as in Co-CoOp"
    )

    @model_validator(mode="after")
    def _consistent(self) -> PromptOptions:
        if "{}" not in self.template:
            raise ValueError("template should have {} where the name of the class goes")
        if self.conditional and not self.context:
            raise ValueError("conditional prompts need a context: set context to 4 or more")
        return self

    def texts(self, classes: Sequence[str]) -> list[str]:
        """The text of each class. Raises UsageError for a class without a description."""
        if self.text == "name":
            return list(classes)
        if self.text == "template":
            return [self.template.replace("{}", name) for name in classes]
        described = self.descriptions
        if described is None:
            described = yaml.safe_load((resources.files("train.models") / DESCRIPTIONS).read_text("utf-8"))
        if missing := [name for name in classes if name not in described]:
            raise UsageError(f"prompts.descriptions has no text for the class {missing[0]}: add one")
        return [described[name] for name in classes]

    def stated(self, classes: Sequence[str]) -> PromptOptions:
        """The same with the descriptions of these classes written out, whatever mien's own will be."""
        if self.text != "description":
            return self
        return self.model_copy(update={"descriptions": dict(zip(classes, self.texts(classes), strict=True))})


def tokens(classes: Sequence[str], options: PromptOptions) -> list[list[int]]:
    """The tokens of each class's text. Raises UsageError for a prompt of more than 77 tokens, by its class's name."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    start, end = tokenizer.all_special_ids
    found = [[start, *tokenizer.encode(text), end] for text in options.texts(classes)]
    for name, each in zip(classes, found, strict=True):
        if len(each) + options.context > LENGTH:
            raise UsageError(
                f"the prompt of the class {name} has {len(each) + options.context} tokens, {options.context} of them "
                f"context, and CLIP takes {LENGTH}: shorten its text"
            )
    return found


class PromptLearner(nn.Module):
    """The prompts of K classes as vectors: [K, 77, W], or [N, K, 77, W] with a shift of the context [N, W].

    words: float [K, 77, W], the vectors of each class's text; order: int64 [K, 77], where each vector of a prompt is
    among the context and the words after it; ends: int64 [K], the last token of each prompt.
    """

    words: Tensor
    order: Tensor
    ends: Tensor

    def __init__(self, options: PromptOptions, classes: int, width: int) -> None:
        super().__init__()
        self.position = options.position
        self.context: nn.Parameter | None = None
        if options.context:
            own = classes if options.specific else 1
            self.context = nn.Parameter(0.02 * torch.randn(own, options.context, width))
        self.register_buffer("words", torch.zeros(classes, LENGTH, width))
        self.register_buffer("order", torch.zeros(classes, LENGTH, dtype=torch.int64))
        self.register_buffer("ends", torch.zeros(classes, dtype=torch.int64))

    def say(self, texts: Sequence[Sequence[int]], table: Tensor) -> None:
        """Sets the classes' texts: tokens of each, with those that begin and end it, and the vectors of all [V, W]."""
        context = 0 if self.context is None else self.context.shape[1]
        before = {"front": context, "middle": context // 2, "end": 0}[self.position]
        for number, text in enumerate(texts):
            filled = [*text, *[0] * (LENGTH - len(text))]
            self.words[number] = table[filled].detach()
            first, *rest = range(context, context + LENGTH)
            inner = len(text) - 2
            order = [first, *range(before), *rest[:inner], *range(before, context), *rest[inner:]]
            self.order[number] = torch.tensor(order[:LENGTH])
            self.ends[number] = context + len(text) - 1

    def forward(self, shift: Tensor | None = None) -> Tensor:
        if self.context is None:
            return self.words
        context = self.context.expand(len(self.words), -1, -1)
        if shift is not None:
            context = context + shift[:, None, None]
        lead = context.shape[:-2]
        vectors = torch.cat([context, self.words.to(context.dtype).expand(*lead, -1, -1)], dim=-2)
        order = self.order[..., None].expand(*lead, -1, vectors.shape[-1])
        return vectors.gather(-2, order)
