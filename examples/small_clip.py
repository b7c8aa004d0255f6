"""Makes a CLIP of toy size for the recipe dfer-clip-small: `python examples/small_clip.py LAKE FILE`.

There are no published weights of that size. An image tower and a text tower are trained together, contrastively
(Radford et al. 2021), on the labelled training faces of the lake and on captions: a caption says the name of the face's
expression in one of several templates, or describes it. FILE is a safetensors file in open_clip's layout.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.lake.layout import Lake
from common.tasks import TASKS
from train import recipe
from train.data import faces as faces_
from train.data.augment import augment
from train.data.crops import CropReader
from train.models.preprocess import normalise
from train.models.prompts import PromptOptions, tokens
from train.models.text_tower import LENGTH, VOCABULARY
from train.recipe import Recipe

STEPS, BATCH, RATE = 600, 64, 1e-3
TEMPERATURE = 0.07
TEMPLATES = ("an expression of {}.", "a face that shows {}.", "a photo of a person in {}.", "{}")


class SmallClip(nn.Module):
    """Both towers, named as open_clip names them, but for the text tower's own module."""

    def __init__(self, options: Recipe) -> None:
        super().__init__()
        assert options.clips is not None
        self.visual = options.encoder.build()
        self.text = options.clips.model.text.build(options.encoder.features).requires_grad_(True)
        self.token_embedding = nn.Embedding(VOCABULARY, options.clips.model.text.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines [B, K] of pictures [B, C, s, s] with texts, tokens int64 [K, 77]."""
        seen = nn.functional.normalize(self.visual(images), dim=-1)
        said = nn.functional.normalize(self.text(self.token_embedding(texts), texts.argmax(-1)), dim=-1)
        return seen @ said.T

    def published(self) -> dict[str, Tensor]:
        """The weights by the names of open_clip's files."""
        return {name.removeprefix("text."): tensor.contiguous() for name, tensor in self.state_dict().items()}


def captions(classes: tuple[str, ...]) -> Tensor:
    """Tokens int64 [captions, K, 77]: of each class its description and its name in every template."""
    spoken = [PromptOptions(text="template", template=template, context=0) for template in TEMPLATES]
    found = [tokens(classes, options) for options in (PromptOptions(context=0), *spoken)]
    return torch.tensor([[[*text, *[0] * (LENGTH - len(text))] for text in each] for each in found])


def main(lake: str, out: Path) -> None:
    options = recipe.load("dfer-clip-small", ("init=random",))
    assert options.clips is not None
    stage = options.clips
    faces = faces_.read(CropReader(Lake(lake), options.preprocess, options.crop.size), options.data)
    known = [TASKS["expr"].known.index(name) for name in stage.classes]
    rows = np.flatnonzero(faces.for_encoder() & np.isin(faces.expression, known))
    targets = np.array([known.index(each) for each in faces.expression[rows]])
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    network, texts = SmallClip(options), captions(stage.classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.05)
    weights = 1 / np.bincount(targets, minlength=len(known))[targets]  # each class as often as the others
    started = time.monotonic()
    for step in range(STEPS):
        chosen = rng.choice(len(rows), BATCH, p=weights / weights.sum())
        images = torch.from_numpy(augment(faces.images(rows[chosen]), stage.augment, rng))
        spoken = texts[rng.integers(len(texts), size=len(known)), np.arange(len(known))]
        logits = network(normalise(images, options.preprocess), spoken) / TEMPERATURE
        same = nn.functional.one_hot(torch.from_numpy(targets[chosen]), len(known)).float()
        of_text = same.T / same.T.sum(1, keepdim=True).clamp(min=1)  # several pictures may fit one text
        loss = nn.functional.cross_entropy(logits, same) + nn.functional.cross_entropy(logits.T, of_text)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            right = (logits.argmax(1) == same.argmax(1)).float().mean()
            print(f"step {step}: loss {loss:.3f}, {right:.0%} of the faces beside their text", flush=True)
    save_file(network.published(), out)
    print(f"{out} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
