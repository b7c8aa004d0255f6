"""From the features of a clip's frames to one feature of the clip: DFER-CLIP's temporal model, or their mean.

After "Prompting Visual-Language Models for Dynamic Facial Expression Recognition" (Zhao & Patras 2023). Sizes and
initial values that it leaves open are those of its authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrameMean(nn.Module):
    """The mean of the frames' features: [N, w, D] -> [N, D]."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=1)


class TemporalTransformer(nn.Module):
    """The frames' features [N, w, D] -> a feature of the clip [N, D]: what a class token becomes beside them.

    It has no norm at its end, and no residual connection to the frames, as in the authors' code.
    """

    def __init__(self, features: int, frames: int, depth: int, heads: int, dim_head: int, mlp: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(features))
        self.positions = nn.Parameter(torch.randn(1 + frames, features))
        self.blocks = nn.ModuleList(_Block(features, heads, dim_head, mlp) for _ in range(depth))

    def forward(self, features: Tensor) -> Tensor:
        token = self.token.to(features.dtype).expand(features.shape[0], 1, -1)
        x = torch.cat([token, features], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


class _Block(nn.Module):
    """Attention of `heads` heads and a perceptron, each with a norm before it and a residual connection."""

    def __init__(self, features: int, heads: int, dim_head: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(features)
        self.qkv = nn.Linear(features, 3 * heads * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, features)
        self.norm2 = nn.LayerNorm(features)
        self.fc1 = nn.Linear(features, mlp)
        self.fc2 = nn.Linear(mlp, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)), approximate="tanh"))

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))
