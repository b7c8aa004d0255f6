"""A picture of what a masked autoencoder has learnt: faces, the patches of them that it saw, and what it rebuilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UsageError
from train.data.faces import FaceSet
from train.models.preprocess import denormalise, normalise
from train.objectives import MaePretrain

FACES = 8  # most faces in the picture
DPI = 110
SIDE = 1.4  # inches: a face
GAP = 2  # px between faces
_HIDDEN = 128.0  # grey of a patch that was hidden


def show(objective: MaePretrain, faces: FaceSet, out: Path, seed: int) -> None:
    """Writes the picture `out` of some faces of validation videos, or if there are none, of training videos."""
    held_out = np.any(list(faces.validation.values()), axis=0)
    rows = np.flatnonzero(held_out if held_out.any() else faces.for_encoder())
    rows = rows[np.linspace(0, len(rows) - 1, min(FACES, len(rows))).round().astype(int)]
    device = next(objective.parameters()).device
    images = torch.from_numpy(faces.images(rows)).to(device)
    title = "faces of validation videos" if held_out.any() else "faces that were trained on: no video is held out"
    draw(out, images, *rebuild(objective, images, seed), title)


def rebuild(objective: MaePretrain, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, C, s, s] -> the same with random patches hidden, and with these patches rebuilt, both uint8.

    With `norm_pix`, what is rebuilt is each patch without its own brightness and contrast: these are put back.
    """
    preprocess, model = objective.preprocess, objective.model
    inputs = normalise(images, preprocess)
    patches = model.patches(inputs)
    noise = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(seed)).to(images.device)
    with torch.inference_mode():
        found, hidden = model(inputs, noise)
    if objective.norm_pix:
        found = found * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    seen = ~hidden[..., None]
    masked = torch.where(seen, model.patches(images.float()), _HIDDEN)
    rebuilt = denormalise(model.pictures(torch.where(seen, patches, found)), images, preprocess)
    return _as_bytes(model.pictures(masked)), _as_bytes(rebuilt)


def draw(out: Path, images: Tensor, masked: Tensor, rebuilt: Tensor, title: str) -> None:
    """Writes the picture `out` with a column for each face; uint8 [B, C, s, s] all three.

    Raises UsageError for an `out` that cannot be written.
    """
    from matplotlib.figure import Figure

    rows = ("face", images), ("what it saw", masked), ("rebuilt", rebuilt)
    figure = Figure(figsize=(SIDE * len(images) + 0.8, 3 * SIDE + 0.5), layout="constrained")
    axis = figure.subplots()  # one for all: each takes as long to draw as a hundred faces
    axis.imshow(torch.cat([_beside(pictures) for _, pictures in rows]).numpy(), cmap="gray", vmin=0, vmax=255)
    height = images.shape[-1] + GAP
    axis.set(xticks=[], yticks=[height * (n + 0.5) for n in range(3)], yticklabels=[name for name, _ in rows])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    try:
        figure.savefig(out, dpi=DPI, format="png")
    except OSError as error:
        raise UsageError(f"the picture {out} cannot be written: {error.strerror}") from None


def _beside(pictures: Tensor) -> Tensor:
    """Pictures uint8 [B, C, s, s] side by side, white between them: [s + GAP, B (s + GAP), C], without C if it is 1."""
    spaced = nn.functional.pad(pictures.cpu(), (0, GAP, 0, GAP), value=255)
    return spaced.permute(2, 0, 3, 1).flatten(1, 2).squeeze(-1)


def _as_bytes(pictures: Tensor) -> Tensor:
    return pictures.clamp(0, 255).round().to(torch.uint8)
