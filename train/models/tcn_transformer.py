"""From a window of features to a prediction per frame: TCN -> Transformer encoder -> MLP, one model per task.

After "Boosting Continuous Emotion Recognition with Self-Pretraining using Masked Autoencoders, TCN and Transformers"
(ABAW6, section 3). Sizes and initial values that it leaves open are those of its authors' code. That code also has
weight normalisation in the TCN and BatchNorm in the head: `weight_norm: true` and `norm: batch`.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.windows import Windowing
from train.models import ranks
from train.models.options import HeadOptions
from train.models.ranks import Dropout


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
    weight_norm: bool = Field(False, description="the TCN trains length and direction of its filters apart")
    norm: Literal["layer", "batch"] = Field(
        "layer",
        description="of the MLP's hidden layer; batch: over all valid frames of a batch",
    )

    def build(self, features: int, outputs: int) -> TcnTransformer:
        return TcnTransformer(self, features, outputs)


class WeightNormConv1d(nn.Conv1d):
    """A convolution with the filters weight * length / |weight|, one length a filter (Salimans & Kingma 2016, eq. 2).

    torch's own weight norm keeps its two tensors in another module, and ZeRO-3 does not gather them for this one.
    """

    def __init__(self, width_in: int, width: int, kernel: int, dilation: int) -> None:
        super().__init__(width_in, width, kernel, dilation=dilation)
        self.length = nn.Parameter(self._norm().detach().clone())

    def _norm(self) -> Tensor:
        return self.weight.norm(dim=(1, 2), keepdim=True)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * (self.length / self._norm()), self.bias)


class _CausalBlock(nn.Module):
    """Two dilated convolutions that see only the past, and a residual connection."""

    def __init__(self, width_in: int, width: int, dilation: int, options: TcnTransformerOptions) -> None:
        super().__init__()
        self.pad = (options.kernel - 1) * dilation
        conv = WeightNormConv1d if options.weight_norm else nn.Conv1d
        self.conv1 = conv(width_in, width, options.kernel, dilation=dilation)
        self.conv2 = conv(width, width, options.kernel, dilation=dilation)
        self.act1, self.act2, self.act = nn.PReLU(), nn.PReLU(), nn.PReLU()
        self.dropout = Dropout(options.dropout)
        self.residual = nn.Conv1d(width_in, width, 1) if width_in != width else nn.Identity()
        if isinstance(self.residual, nn.Conv1d):
            # The authors' code sets this for all convolutions, and its weight norm then undoes it for the others.
            nn.init.normal_(self.residual.weight, std=0.01)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        y = self.dropout(self.act1(self.conv1(nn.functional.pad(x, (self.pad, 0)))))
        y = torch.where(valid, y, 0)
        y = self.dropout(self.act2(self.conv2(nn.functional.pad(y, (self.pad, 0)))))
        return torch.where(valid, self.act(y + self.residual(x)), 0)


class _FrameBatchNorm(nn.BatchNorm1d):
    """BatchNorm of [N, w, C] whose statistics are those of the valid frames, bool [N, w], of all processes.

    By hand, as torch's SyncBatchNorm knows neither frames to leave out nor processors without CUDA.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        frames = x[valid].double()
        sums = torch.stack([torch.ones_like(frames).sum(0), frames.sum(0), (frames**2).sum(0)])
        count, *moments = ranks.total(sums)
        mean, square = (moment / count.clamp(min=1) for moment in moments)
        variance = square - mean**2
        assert self.momentum is not None
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp(min=1)
            for running, found in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(found.to(running.dtype), self.momentum)
            self.num_batches_tracked += 1
        normed = (x - mean.float()) * (variance.float() + self.eps).rsqrt()
        return torch.where(valid[..., None], normed * self.weight + self.bias, 0)


class _EncoderLayer(nn.TransformerEncoderLayer):
    """torch's layer, with dropout that does not depend on how many processes share the batch."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(dim, heads, feedforward, dropout, batch_first=True)
        self.self_attn = _Attention(dim, heads, dropout)
        self.dropout, self.dropout1, self.dropout2 = (Dropout(dropout) for _ in range(3))  # type: ignore[assignment]


class _Attention(nn.MultiheadAttention):
    """torch's self-attention, with such dropout of its weights in training."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout, batch_first=True)
        self.drop = Dropout(dropout)

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """`key_padding_mask`: [N, w], added to the attention before its softmax."""
        if not self.training:
            return super().forward(query, key, value, key_padding_mask, **options)
        inner = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = inner.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if key_padding_mask is not None:
            weights = weights + key_padding_mask[:, None, None]
        mixed = self.drop(weights.softmax(dim=-1)) @ v
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class TcnTransformer(nn.Module):
    """features [N, w, D] and valid bool [N, w] (at least one True per window) -> [N, w, K], before any activation.

    Positions that are not valid do not affect valid outputs: convolutions see zeros there, and attention leaves them
    out. The Transformer has no positional encoding, as in the authors' code.
    """

    def __init__(self, options: TcnTransformerOptions, features: int, outputs: int) -> None:
        super().__init__()
        widths = (features, *options.channels)
        self.tcn = nn.ModuleList(
            _CausalBlock(width_in, width, 2**level, options)
            for level, (width_in, width) in enumerate(zip(widths, options.channels, strict=False))
        )
        self.bridge = nn.Linear(widths[-1], options.dim)
        layer = _EncoderLayer(options.dim, options.heads, options.feedforward, options.dropout)
        # All start as copies of one, as in the authors' code (torch's TransformerEncoder does so).
        self.transformer = nn.ModuleList(copy.deepcopy(layer) for _ in range(options.layers))
        norm = nn.LayerNorm(options.hidden) if options.norm == "layer" else _FrameBatchNorm(options.hidden)
        self.head = nn.ModuleList([nn.Linear(options.dim, options.hidden), norm, nn.Linear(options.hidden, outputs)])

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None, :]
        x = torch.where(mask, features.transpose(1, 2), 0)
        for block in self.tcn:
            x = block(x, mask)
        x = self.bridge(x.transpose(1, 2))
        for layer in self.transformer:
            x = layer(x, src_key_padding_mask=~valid)
        hidden, norm, last = self.head
        x = hidden(x)
        return last(norm(x, valid) if isinstance(norm, _FrameBatchNorm) else norm(x))
