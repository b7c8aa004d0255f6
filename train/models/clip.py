"""The image tower of CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision"), a Vision Transformer as open_clip builds it.

Its pictures should have the mean and the standard deviation of CLIP's own training data; docs/import.md has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from train.models.options import VisionTransformerOptions
from train.models.positions import resampled
from train.models.ranks import DropPath

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

_TOWER = "visual."  # what the names of the image tower begin with in a file of the whole model
_FARL = ("visual.lm_", "visual.ln_lm.", "visual.mask_token")  # parts of FaRL's pretraining that are not of the tower
_OPENAI = "input_resolution"  # an entry that only OpenAI's own files have


class ClipOptions(VisionTransformerOptions):
    """Shape of the tower; the defaults are OpenAI's ViT-B/16. ViT-B/32 differs in `patch` alone, which is 32."""

    kind: Literal["clip"] = "clip"
    projection: int = Field(512, gt=0, description="length of the feature, which CLIP compares with that of a text")
    quick_gelu: bool = Field(
        True, description="GELU in OpenAI's approximation; false for most weights that others made"
    )

    libraries: ClassVar[tuple[str, ...]] = ("open_clip",)
    stem: ClassVar[tuple[str, ...]] = ("conv1", "class_embedding", "positional_embedding", "ln_pre")

    @property
    def input(self) -> tuple[int, int]:
        return 3, self.image

    @property
    def features(self) -> int:
        return self.projection

    def build(self) -> VisionTransformer:
        from open_clip.transformer import QuickGELU, VisionTransformer

        return VisionTransformer(
            image_size=self.image,
            patch_size=self.patch,
            width=self.dim,
            layers=self.depth,
            heads=self.heads,
            mlp_ratio=4.0,
            output_dim=self.projection,
            act_layer=QuickGELU if self.quick_gelu else nn.GELU,
        )

    def drop_paths(self, network: nn.Module, rates: Sequence[float]) -> None:
        from open_clip.transformer import VisionTransformer

        assert isinstance(network, VisionTransformer)
        for block, rate in zip(network.transformer.resblocks, rates, strict=True):
            block.ls_1, block.ls_2 = DropPath(rate), DropPath(rate)  # these were for the scaling that CLIP lacks

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes the tower out of a whole model, as OpenAI, open_clip and FaRL publish them, or by itself."""
        if _OPENAI in tensors and not self.quick_gelu:
            raise ValueError("it is OpenAI's, whose GELU is approximated: set encoder.quick_gelu=true")
        tower = {
            name.removeprefix(_TOWER): tensor
            for name, tensor in tensors.items()
            if name.startswith(_TOWER) and not name.startswith(_FARL)
        }
        named = tower or dict(tensors)
        table = named.get("positional_embedding")
        if "class_embedding" in named and table is not None:
            named["positional_embedding"] = torch.cat([table[:1], resampled(table[1:], self.image // self.patch)])
        return named
