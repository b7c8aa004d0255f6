"""From a window of features to a prediction per frame: TCN -> Transformer encoder -> MLP, one model per task.

Sizes that "Boosting Continuous Emotion Recognition with Self-Pretraining using Masked Autoencoders, TCN and
Transformers" (ABAW6, section 3) leaves open are those of its authors' code, and the defaults here. Two departures: no
weight normalisation in the TCN, whose split weights do not survive ZeRO-3's partitioning, and LayerNorm in place of the
head's BatchNorm, whose statistics would mix in padded frames and differ between ranks.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.windows import Windowing
from train.models.options import HeadOptions


class TcnTransformerOptions(HeadOptions):
    """Shape of the head. No `channels`: no TCN; no `layers`: no Transformer."""

    kind: Literal["tcn_transformer"] = "tcn_transformer"
    windowing: Windowing = Windowing()
    channels: tuple[int, ...] = Field((768, 256, 128), description="of the TCN's blocks; []: no TCN")
    kernel: int = Field(5, ge=1, description="of the TCN's convolutions, in grid points")
    dim: int = Field(512, gt=0, description="width of the Transformer")
    layers: int = Field(8, ge=0, description="of the Transformer; 0: no Transformer")
    heads: int = Field(4, ge=1, description="attention heads of a layer")
    feedforward: int = Field(512, gt=0, description="width of a layer's feed-forward part")
    hidden: int = Field(256, gt=0, description="width of the MLP's hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="in training")

    def build(self, features: int, outputs: int) -> TcnTransformer:
        return TcnTransformer(self, features, outputs)


class _CausalBlock(nn.Module):
    """Two dilated convolutions that see the past only, and a residual."""

    def __init__(self, width_in: int, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.conv1 = nn.Conv1d(width_in, width, kernel, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.act1, self.act2, self.act = nn.PReLU(), nn.PReLU(), nn.PReLU()
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Conv1d(width_in, width, 1) if width_in != width else nn.Identity()
        for conv in (self.conv1, self.conv2, self.residual):
            if isinstance(conv, nn.Conv1d):
                nn.init.normal_(conv.weight, std=0.01)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        y = self.dropout(self.act1(self.conv1(nn.functional.pad(x, (self.pad, 0)))))
        y = torch.where(valid, y, 0)
        y = self.dropout(self.act2(self.conv2(nn.functional.pad(y, (self.pad, 0)))))
        return torch.where(valid, self.act(y + self.residual(x)), 0)


class TcnTransformer(nn.Module):
    """features [N, w, D] and valid bool [N, w] (one True a window at least) -> [N, w, K], before any activation.

    What stands at positions that are not valid has no part in any valid output: the convolutions see zeros there,
    attention and normalisation nothing. The Transformer has no positional encoding, as in the authors' code.
    """

    def __init__(self, options: TcnTransformerOptions, features: int, outputs: int) -> None:
        super().__init__()
        widths = (features, *options.channels)
        self.tcn = nn.ModuleList(
            _CausalBlock(width_in, width, options.kernel, 2**level, options.dropout)
            for level, (width_in, width) in enumerate(zip(widths, options.channels, strict=False))
        )
        self.bridge = nn.Linear(widths[-1], options.dim)
        self.transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(
                options.dim, options.heads, options.feedforward, options.dropout, batch_first=True
            )
            for _ in range(options.layers)
        )
        self.head = nn.Sequential(
            nn.Linear(options.dim, options.hidden), nn.LayerNorm(options.hidden), nn.Linear(options.hidden, outputs)
        )

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None, :]
        x = torch.where(mask, features.transpose(1, 2), 0)
        for block in self.tcn:
            x = block(x, mask)
        x = self.bridge(x.transpose(1, 2))
        for layer in self.transformer:
            x = layer(x, src_key_padding_mask=~valid)
        return self.head(x)
