"""The losses, in float32 and over annotated frames only. Without an annotated frame, loss and gradient are 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.tasks import AnyOf, OneOf


def concordance_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Sum over the columns of 1 - CCC; predictions and labels float [..., K], labels NaN where not annotated.

    CCC = 2 cov / (var_x + var_y + (mean_x - mean_y)^2) over all annotated frames of the batch (Lin 1989). Covariance
    and variances are means; the ABAW papers print the covariance without its 1/N, surely by mistake.
    """
    known = ~labels.isnan()
    count = known.sum(dim=tuple(range(labels.ndim - 1))).clamp(min=1)
    x = torch.where(known, predictions.float(), 0).flatten(0, -2)
    y = torch.where(known, labels.float(), 0).flatten(0, -2)
    mean_x, mean_y = x.sum(0) / count, y.sum(0) / count
    known = known.flatten(0, -2)
    dx, dy = torch.where(known, x - mean_x, 0), torch.where(known, y - mean_y, 0)
    covariance, spread = (dx * dy).sum(0) / count, ((dx**2).sum(0) + (dy**2).sum(0)) / count
    ccc = 2 * covariance / (spread + (mean_x - mean_y) ** 2 + 1e-8)
    return torch.where(known.any(0), 1 - ccc, 0).sum()


def expression_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., 8], labels int64 [...], -1 where not annotated."""
    logits, labels = predictions.float().flatten(0, -2), labels.flatten()
    total = nn.functional.cross_entropy(logits, labels, ignore_index=OneOf.missing, reduction="sum")
    return total / (labels != OneOf.missing).sum().clamp(min=1)


def action_unit_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [..., 12], labels int64 [..., 12], -1 where not annotated."""
    known = labels != AnyOf.missing
    each = nn.functional.binary_cross_entropy_with_logits(
        predictions.float(), labels.clamp(min=0).float(), reduction="none"
    )
    return torch.where(known, each, 0).sum() / known.sum().clamp(min=1)


def masked_patch_loss(rebuilt: Tensor, patches: Tensor, counted: Tensor, *, normalise: bool = False) -> Tensor:
    """Mean squared error of the counted patches; rebuilt and patches [B, L, P], counted bool [B, L] (He et al. 2021).

    `normalise`: the target is each patch made zero-mean and unit-variance, which their code calls norm_pix.
    """
    target = patches.float()
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = ((rebuilt.float() - target) ** 2).mean(-1)
    return (error * counted).sum() / counted.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "va": concordance_loss,
    "expr": expression_loss,
    "au": action_unit_loss,
}
"""By task: the loss of raw predictions [..., K] and targets as `common.tasks` makes them."""
