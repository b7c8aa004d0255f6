"""The losses, over the annotated frames of the whole batch, which several processes may share.

Without an annotated frame, loss and gradient are 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.tasks import AnyOf, OneOf
from train.models import ranks


def concordance_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Sum over the columns of 1 - CCC; predictions and labels float [..., K], labels NaN where not annotated.

    CCC = 2 cov / (var_x + var_y + (mean_x - mean_y)^2) over all annotated frames of the batch (Lin 1989). Covariance
    and variances are means; the ABAW papers print the covariance without its 1/N, surely by mistake.
    """
    known = ~labels.isnan().flatten(0, -2)
    x = torch.where(known, predictions.double().flatten(0, -2), 0)
    y = torch.where(known, labels.double().flatten(0, -2), 0)
    # Moments as float64: exact enough to be summed over processes before the means are taken off.
    sums = torch.stack([each.sum(0) for each in (known.double(), x, y, x * x, y * y, x * y)])
    count, *moments = ranks.total(sums)
    mean_x, mean_y, square_x, square_y, product = (moment / count.clamp(min=1) for moment in moments)
    spread = square_x - mean_x**2 + square_y - mean_y**2
    ccc = 2 * (product - mean_x * mean_y) / (spread + (mean_x - mean_y) ** 2 + 1e-8)
    return torch.where(count > 0, 1 - ccc, 0).sum().float()


def expression_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., 8], labels int64 [...], -1 where not annotated."""
    logits, labels = predictions.float().flatten(0, -2), labels.flatten()
    total = nn.functional.cross_entropy(logits, labels, ignore_index=OneOf.missing, reduction="sum")
    return _mean(total, (labels != OneOf.missing).sum())


def action_unit_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [..., 12], labels int64 [..., 12], -1 where not annotated."""
    known = labels != AnyOf.missing
    each = nn.functional.binary_cross_entropy_with_logits(
        predictions.float(), labels.clamp(min=0).float(), reduction="none"
    )
    return _mean(torch.where(known, each, 0).sum(), known.sum())


def masked_patch_loss(rebuilt: Tensor, patches: Tensor, counted: Tensor, *, normalise: bool = False) -> Tensor:
    """Mean squared error of the counted patches; rebuilt and patches [B, L, P], counted bool [B, L] (He et al. 2021).

    `normalise`: the target is each patch made zero-mean and unit-variance, which their code calls norm_pix.
    """
    target = patches.float()
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = ((rebuilt.float() - target) ** 2).mean(-1)
    return _mean((error * counted).sum(), counted.sum())


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Over the batches of all processes."""
    total, count = ranks.total(torch.stack([total.double(), count.double()]))
    return (total / count.clamp(min=1)).float()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "va": concordance_loss,
    "expr": expression_loss,
    "au": action_unit_loss,
}
"""By task: the loss of raw predictions [..., K] and targets as `common.tasks` makes them."""
