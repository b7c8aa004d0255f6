"""mini-XCEPTION: residual blocks of separable convolutions, 57,000 weights (Arriaga et al. 2017, "Real-time
Convolutional Neural Networks for Emotion and Gender Classification").

Details are as in Keras, so that weights trained there fit: with a stride of 2, `padding="same"` puts the odd pixel of
padding at the lower and right edges, and batch normalisation adds 0.001 to the variance.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from train.models.options import EncoderOptions

WIDTHS = (8, 16, 32, 64, 128)  # channels of the first two convolutions, then of each block


class MiniXceptionOptions(EncoderOptions):
    """Shape of the network. Its features are the raw values of `classes`, before any activation."""

    kind: Literal["mini_xception"] = "mini_xception"
    image: int = Field(64, ge=8, description="side of the picture, px")
    classes: int = Field(7, gt=0, description="outputs of the network")

    @property
    def input(self) -> tuple[int, int]:
        return 1, self.image

    @property
    def features(self) -> int:
        return self.classes

    def build(self) -> MiniXception:
        return MiniXception(self)


class MiniXception(nn.Module):
    """Grey pictures float [B, 1, s, s] with values in [-1, 1] -> float [B, classes]."""

    def __init__(self, options: MiniXceptionOptions) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.conv1 = nn.Conv2d(1, first, 3, bias=False)
        self.norm1 = _norm(first)
        self.conv2 = nn.Conv2d(first, first, 3, bias=False)
        self.norm2 = _norm(first)
        self.blocks = nn.ModuleList(map(_Block, WIDTHS, WIDTHS[1:]))
        self.classify = nn.Conv2d(WIDTHS[-1], options.classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv1(images)).relu()
        x = self.norm2(self.conv2(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.classify(x).mean((2, 3))


class _Block(nn.Module):
    """Halves the picture: two separable convolutions with max pooling, plus a shortcut of one convolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.separable1 = _Separable(width_in, width)
        self.separable2 = _Separable(width, width)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=2, bias=False)
        self.norm = _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.separable2(self.separable1(x).relu())
        return _halve(y) + self.norm(self.shortcut(x))


class _Separable(nn.Module):
    """A convolution within each channel, one across channels, and batch normalisation."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width_in, width_in, 3, padding=1, groups=width_in, bias=False)
        self.pointwise = nn.Conv2d(width_in, width, 1, bias=False)
        self.norm = _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


def _halve(x: Tensor) -> Tensor:
    """Max pooling of 3x3 pixels with a stride of 2: [B, C, s, s] -> [B, C, ceil(s / 2), ceil(s / 2)]."""
    before, after = x.shape[-1] % 2, 1
    padded = nn.functional.pad(x, (before, after, before, after), value=-torch.inf)
    return nn.functional.max_pool2d(padded, 3, stride=2)
