"""A Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"), and masked autoencoding with it
(He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners").

Blocks and the names of their parameters are those of timm, so that its weights fit (`vit_layouts`); importing timm
would take two seconds. Fixed position tables are buffers, neither saved nor trained. Patches are selected before they
are embedded: in pretraining the encoder does not compute the masked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Config
from train.models import vit_layouts
from train.models.options import VisionTransformerOptions
from train.models.positions import position_table
from train.models.ranks import DropPath


class VitOptions(VisionTransformerOptions):
    """Shape of the encoder; the defaults are ViT-B/16."""

    kind: Literal["vit"] = "vit"
    channels: int = Field(3, gt=0, description="1: grey, 3: colour")
    dim: int = Field(768, gt=0, multiple_of=4, description="width of a token")
    positions: Literal["fixed", "trained"] = Field(
        "fixed", description="fixed: sines and cosines, as in MAE; trained: a table that starts as these, as in timm"
    )
    pool: Literal["mean", "token"] = Field(
        "mean", description="the feature: mean of the patch tokens, as MAE is fine-tuned, or class token, as in timm"
    )

    can_be_masked: ClassVar[bool] = True
    stem: ClassVar[tuple[str, ...]] = ("patch_embed", "cls_token", "positions")

    @property
    def input(self) -> tuple[int, int]:
        return self.channels, self.image

    @property
    def features(self) -> int:
        return self.dim

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    def build(self) -> Vit:
        return Vit(self)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return vit_layouts.adopt(tensors, self)

    def drop_paths(self, network: nn.Module, rates: Sequence[float]) -> None:
        assert isinstance(network, Vit)
        for block, rate in zip(network.blocks, rates, strict=True):
            assert isinstance(block, Block)
            block.drop_path.p = rate

    def autoencoder(self, decoder: DecoderOptions, mask_ratio: float) -> MaskedAutoencoder:
        return MaskedAutoencoder(self, decoder, mask_ratio)


class DecoderOptions(Config):
    """Shape of the decoder, which is dropped after pretraining; the defaults are the paper's."""

    dim: int = Field(512, gt=0, multiple_of=4, description="width of a token")
    depth: int = Field(8, ge=1, description="blocks")
    heads: int = Field(16, ge=1, description="attention heads of a block")


class Vit(nn.Module):
    """Pictures float [B, C, S, S] -> features float [B, D]: the tokens after all blocks, pooled and then normalised.

    The mean of the patch tokens leaves the class token out (`global_pool` in MAE's code).
    """

    positions: Tensor

    def __init__(self, options: VitOptions) -> None:
        super().__init__()
        self.options = options
        self.patch_embed = nn.Linear(options.channels * options.patch**2, options.dim)
        self.cls_token = nn.Parameter(torch.empty(options.dim))
        table = position_table(options.dim, options.image // options.patch)
        if options.positions == "trained":
            self.positions = nn.Parameter(table)
        else:
            self.register_buffer("positions", table, persistent=False)
        self.blocks = _blocks(options.dim, options.heads, options.depth)
        self.norm = nn.LayerNorm(options.dim, eps=1e-6)
        nn.init.normal_(self.cls_token, std=0.02)
        _init_linear(self)
        # In the authors' code patches go through a convolution, whose bias keeps torch's initial values.
        bound = self.patch_embed.in_features**-0.5
        nn.init.uniform_(self.patch_embed.bias, -bound, bound)

    def tokens(self, patches: Tensor, kept: Tensor | None = None) -> Tensor:
        """Patches [B, L, P] of a picture -> tokens [B, 1 + L, D], class token first; `kept` [B, K]: only those."""
        positions = self.positions.expand(patches.shape[0], -1, -1)
        if kept is not None:
            patches, positions = _take(patches, kept), _take(positions, kept)
        x = self.patch_embed(patches) + positions
        x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(patchify(images, self.options.patch))
        return self.norm(x[:, 0] if self.options.pool == "token" else x[:, 1:].mean(dim=1))


class MaskedAutoencoder(nn.Module):
    """An encoder that sees some patches, and a decoder that rebuilds the others.

    The norm between them is not the encoder's own, which is for the pooled features only.
    """

    decoder_positions: Tensor

    def __init__(self, encoder: VitOptions, decoder: DecoderOptions, mask_ratio: float = 0.75) -> None:
        super().__init__()
        self.kept = max(1, int(encoder.patches * (1 - mask_ratio)))  # rounded down, as in the authors' code
        self.encoder = Vit(encoder)
        self.encoder_norm = nn.LayerNorm(encoder.dim, eps=1e-6)
        self.decoder_embed = nn.Linear(encoder.dim, decoder.dim)
        self.mask_token = nn.Parameter(torch.empty(decoder.dim))
        self.register_buffer(
            "decoder_positions", position_table(decoder.dim, encoder.image // encoder.patch), persistent=False
        )
        self.decoder_blocks = _blocks(decoder.dim, decoder.heads, decoder.depth)
        self.decoder_norm = nn.LayerNorm(decoder.dim, eps=1e-6)
        self.to_pixels = nn.Linear(decoder.dim, encoder.channels * encoder.patch**2)
        nn.init.normal_(self.mask_token, std=0.02)
        _init_linear(self)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file under the names of this network; without a decoder in it, this one's stays."""
        return vit_layouts.adopt_autoencoder(tensors, self.encoder.options, self.state_dict())

    def patches(self, images: Tensor) -> Tensor:
        """Pictures [B, C, S, S] -> their patches, [B, L, P]."""
        return patchify(images, self.encoder.options.patch)

    def pictures(self, patches: Tensor) -> Tensor:
        """Patches [B, L, P] -> the pictures that have them, [B, C, S, S]."""
        options = self.encoder.options
        grid, patch = options.image // options.patch, options.patch
        x = patches.reshape(len(patches), grid, grid, patch, patch, options.channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(patches), options.channels, options.image, options.image)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, C, S, S] and noise [B, L] -> rebuilt patches [B, L, P] and mask bool [B, L], True where masked.

        The encoder sees the patches with the smallest noise.
        """
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        seen = self.encoder.tokens(self.patches(images), order[:, : self.kept])
        x = self.decoder_embed(self.encoder_norm(seen))
        hidden = self.mask_token.to(x.dtype).expand(len(x), noise.shape[1] - self.kept, -1)
        patches = _take(torch.cat([x[:, 1:], hidden], dim=1), restore) + self.decoder_positions
        x = torch.cat([x[:, :1], patches], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.to_pixels(self.decoder_norm(x[:, 1:])), restore >= self.kept


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, S, S] -> [B, (S / p)^2, p * p * C], row by row."""
    batch, channels, side, _ = images.shape
    grid = side // patch
    x = images.reshape(batch, channels, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch, grid * grid, patch * patch * channels)


class _Attention(nn.Module):
    """Self-attention of tokens [B, N, D] in several heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if _fused_is_faster(x):
            x = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            x = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


def _fused_is_faster(x: Tensor) -> bool:
    return x.device.type != "cpu"


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and a perceptron, each with a normalisation before it and a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _blocks(dim: int, heads: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(Block(dim, heads) for _ in range(depth))


def _init_linear(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
