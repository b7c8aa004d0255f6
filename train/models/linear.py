"""One linear layer from the feature of a face to its prediction; each face by itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from train.models.options import HeadOptions
from train.models.ranks import Dropout


class LinearOptions(HeadOptions):
    """Shape of the head."""

    kind: Literal["linear"] = "linear"
    windowing: None = Field(None, description="none: it takes each face by itself")
    dropout: float = Field(0.0, ge=0, lt=1, description="of features, in training")

    def build(self, features: int, outputs: int) -> LinearHead:
        return LinearHead(self, features, outputs)


class LinearHead(nn.Module):
    """features [N, w, D] -> [N, w, K], before any activation. Positions are independent, so `valid` is not used."""

    def __init__(self, options: LinearOptions, features: int, outputs: int) -> None:
        super().__init__()
        self.dropout = Dropout(options.dropout)
        self.linear = nn.Linear(features, outputs)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        return self.linear(self.dropout(features))
