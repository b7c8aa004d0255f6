"""Published weights of Vision Transformers, under the names that `train.models.vit` has for them.

MAE and MAE-Face (pretrained or fine-tuned) and timm share one layout. Its patches go through a convolution. Its
position table, `pos_embed`, has a row for the class token, too. `norm` normalises every token: in a pretrained file for
the decoder, elsewhere for the class token. `fc_norm` normalises the mean of the patch tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.models.positions import position_table, resampled

if TYPE_CHECKING:
    from train.models.vit import VitOptions

_PUBLISHED = {"patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"}
_DROPPED = ("head.", "decoder_", "mask_token")  # the classifier, and the decoder of pretraining


def adopt(tensors: Mapping[str, Tensor], options: VitOptions) -> dict[str, Tensor]:
    """Weights in the published layout or in mien's own, as an encoder with these options takes them.

    A file without `fc_norm` says nothing of the norm of the mean: it starts anew, as in MAE's fine-tuning. Tensors of
    an unknown layout keep their names. Raises ValueError for positions that do not fit.
    """
    named = _renamed(tensors, options) if tensors.keys() >= _PUBLISHED else dict(tensors)
    table = named.pop("positions", None)
    return named | _positions(table, options)


def _renamed(tensors: Mapping[str, Tensor], options: VitOptions) -> dict[str, Tensor]:
    named = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DROPPED)}
    convolution, table = named.pop("patch_embed.proj.weight"), named.pop("pos_embed").flatten(0, -2)
    named["patch_embed.weight"] = convolution.movedim(1, -1).flatten(1)
    named["patch_embed.bias"] = named.pop("patch_embed.proj.bias")
    named["cls_token"] = named["cls_token"].flatten() + table[0]
    named["positions"] = table[1:]
    if options.pool == "mean":
        named["norm.weight"] = named.pop("fc_norm.weight", torch.ones(options.dim))
        named["norm.bias"] = named.pop("fc_norm.bias", torch.zeros(options.dim))
    return named


def _positions(table: Tensor | None, options: VitOptions) -> dict[str, Tensor]:
    grid = options.image // options.patch
    if options.positions == "trained":
        return {"positions": position_table(options.dim, grid) if table is None else resampled(table, grid)}
    if table is None or table.shape[1] != options.dim:
        return {}
    ours = position_table(options.dim, grid)
    if table.shape != ours.shape or not torch.allclose(table.float(), ours, atol=1e-4):
        raise ValueError(
            "its positions are not the fixed sines and cosines of as many patches: set encoder.positions=trained, "
            "which takes any table and resamples it"
        )
    return {}
