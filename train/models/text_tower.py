"""The text tower of CLIP, of open_clip's parts. It takes prompts as vectors, so that some of them can be learned."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.config import Config

LENGTH = 77  # tokens of a prompt, with those that begin, end and fill it
VOCABULARY = 49408  # tokens of CLIP's tokenizer

_PARTS = ("positional_embedding", "text_projection", "transformer.", "ln_final.")  # what the tower's tensors begin with
_TOKENS = "token_embedding.weight"
_CUSTOM = "text."  # what open_clip puts before these names in some of its models


class TextOptions(Config):
    """Shape of the text tower; the defaults are those of OpenAI's ViT-B/32 and ViT-B/16."""

    width: int = Field(512, gt=0, description="width of a token")
    depth: int = Field(12, ge=1, description="blocks")
    heads: int = Field(8, ge=1, description="attention heads of a block")
    quick_gelu: bool = Field(True, description="GELU in OpenAI's approximation; as of the image tower")

    @model_validator(mode="after")
    def _divides(self) -> TextOptions:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def build(self, features: int) -> TextTower:
        """The tower, with random weights, that gives text features of this length."""
        return TextTower(self, features)

    def adopt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The tower's tensors and the table of token vectors [V, W] in a file of a whole CLIP (None: it has no table).

        OpenAI, open_clip and FaRL publish such files.
        """
        plain = {name.removeprefix(_CUSTOM): tensor for name, tensor in tensors.items()}
        tower = {name: tensor for name, tensor in plain.items() if name.startswith(_PARTS)}
        return tower, plain.get(_TOKENS)


class TextTower(nn.Module):
    """Prompts float [K, 77, W] and where each one ends, int64 [K] -> text features float [K, D].

    Its weights are frozen. Gradients pass through it to the prompts.
    """

    mask: Tensor

    def __init__(self, options: TextOptions, features: int) -> None:
        from open_clip.transformer import LayerNorm, QuickGELU, Transformer

        super().__init__()
        self.transformer = Transformer(
            width=options.width,
            layers=options.depth,
            heads=options.heads,
            act_layer=QuickGELU if options.quick_gelu else nn.GELU,
        )
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(LENGTH, options.width))
        self.ln_final = LayerNorm(options.width)
        self.text_projection = nn.Parameter(options.width**-0.5 * torch.randn(options.width, features))
        later = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)  # a token sees itself and those before it
        self.register_buffer("mask", later, persistent=False)
        self.requires_grad_(False)

    def forward(self, prompts: Tensor, ends: Tensor) -> Tensor:
        x = self.transformer(prompts + self.positional_embedding, attn_mask=self.mask)
        last = x.gather(1, ends[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return self.ln_final(last) @ self.text_projection
