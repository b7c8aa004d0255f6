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
_DECODER = ("decoder_", "mask_token")
_DROPPED = ("head.", *_DECODER)


def adopt(tensors: Mapping[str, Tensor], options: VitOptions) -> dict[str, Tensor]:
    """Weights in the published layout or in mien's own, as an encoder with these options takes them.

    A file without `fc_norm` says nothing of the norm of the mean: it starts anew, as in MAE's fine-tuning. Tensors of
    an unknown layout keep their names. Raises ValueError for positions that do not fit.
    """
    named = _renamed(tensors, options) if tensors.keys() >= _PUBLISHED else dict(tensors)
    table = named.pop("positions", None)
    return named | _positions(table, options)


def adopt_autoencoder(
    tensors: Mapping[str, Tensor], options: VitOptions, untrained: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same for a masked autoencoder with the weights `untrained`: its decoder keeps them if the file has none.

    Raises ValueError as well for a decoder whose positions are not fixed, or are those of another number of patches.
    """
    encoder = {f"encoder.{name}": tensor for name, tensor in adopt(tensors, options).items()}
    if tensors.keys() >= _PUBLISHED:
        encoder |= {f"encoder_{name}": tensor for name, tensor in tensors.items() if name.startswith("norm.")}
    if "decoder_pos_embed" not in tensors:
        return {name: tensor for name, tensor in untrained.items() if not name.startswith("encoder.")} | encoder
    table = tensors["decoder_pos_embed"].flatten(0, -2)[1:]
    if not _is_fixed(table, options.image // options.patch):
        raise ValueError("its decoder has other positions than the fixed sines and cosines of as many patches")
    decoder = {name: tensor for name, tensor in tensors.items() if name.startswith(_DECODER)}
    del decoder["decoder_pos_embed"]
    renamed = {name.replace("decoder_pred", "to_pixels"): tensor for name, tensor in decoder.items()}
    if "mask_token" in renamed:
        renamed["mask_token"] = renamed["mask_token"].flatten()
    return encoder | renamed


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
    if not _is_fixed(table, grid):
        raise ValueError(
            "its positions are not the fixed sines and cosines of as many patches: set encoder.positions=trained, "
            "which takes any table and resamples it"
        )
    return {}


def _is_fixed(table: Tensor, grid: int) -> bool:
    return len(table) == grid**2 and torch.allclose(table.float(), position_table(table.shape[1], grid), atol=1e-4)
