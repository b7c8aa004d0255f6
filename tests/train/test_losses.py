from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from train import losses


def lin(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_concordance_loss_is_lins_formula_over_the_annotated_frames_of_the_whole_batch() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 50, 2)), rng.normal(size=(3, 50, 2)) * 0.5 + 0.2
    y[0, :20] = np.nan
    y[2, 7, 1] = np.nan
    expected = 0.0
    for k in range(2):
        known = ~np.isnan(y[..., k])
        expected += 1 - lin(x[..., k][known], y[..., k][known])
    found = losses.concordance_loss(torch.tensor(x), torch.tensor(y))
    assert found.dtype == torch.float32
    assert math.isclose(found.item(), expected, abs_tol=1e-5)


def test_frames_that_are_not_annotated_have_no_gradient() -> None:
    predictions = torch.randn(2, 9, 2, requires_grad=True)
    labels = torch.rand(2, 9, 2)
    labels[1, 3:] = float("nan")
    losses.concordance_loss(predictions, labels).backward()
    assert predictions.grad is not None
    assert torch.isfinite(predictions.grad).all()
    assert (predictions.grad[1, 3:] == 0).all()
    assert (predictions.grad[0] != 0).all()


def test_expression_and_action_unit_losses_are_means_over_annotated_frames() -> None:
    logits, labels = torch.randn(4, 6, 8), torch.randint(0, 8, (4, 6))
    labels[1], labels[3, 2] = -1, -1
    known = labels >= 0
    expected = nn.functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(losses.expression_loss(logits, labels), expected)

    logits, labels = torch.randn(4, 6, 12), torch.randint(0, 2, (4, 6, 12))
    labels[2], labels[0, 0, 3] = -1, -1
    known = labels >= 0
    expected = nn.functional.binary_cross_entropy(logits[known].sigmoid(), labels[known].float())
    torch.testing.assert_close(losses.action_unit_loss(logits, labels), expected)


def test_a_batch_without_annotations_costs_nothing_and_breaks_nothing() -> None:
    cases = [
        (losses.concordance_loss, torch.full((2, 5, 2), float("nan")), 2),
        (losses.expression_loss, torch.full((2, 5), -1), 8),
        (losses.action_unit_loss, torch.full((2, 5, 12), -1), 12),
    ]
    for loss, labels, width in cases:
        predictions = torch.randn(2, 5, width, requires_grad=True)
        value = loss(predictions, labels)
        value.backward()
        assert value.item() == 0
        assert predictions.grad is not None
        assert (predictions.grad == 0).all()


def test_a_constant_prediction_has_a_loss_of_one_per_dimension_and_a_finite_gradient() -> None:
    predictions = torch.zeros(3, 4, 2, requires_grad=True)
    value = losses.concordance_loss(predictions, torch.rand(3, 4, 2))
    value.backward()
    assert math.isclose(value.item(), 2.0, abs_tol=1e-4)
    assert predictions.grad is not None
    assert torch.isfinite(predictions.grad).all()


def test_masked_patch_loss_is_the_squared_error_of_hidden_patches() -> None:
    rng = np.random.default_rng(1)
    rebuilt, patches = rng.normal(size=(2, 2, 5, 7))
    hidden = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    expected = np.mean([((rebuilt[b, i] - patches[b, i]) ** 2).mean() for b, i in np.argwhere(hidden)])
    tensors = torch.tensor(rebuilt), torch.tensor(patches), torch.tensor(hidden)
    assert math.isclose(losses.masked_patch_loss(*tensors).item(), expected, rel_tol=1e-5)

    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    target = (patches - mean) / np.sqrt(variance + 1e-6)
    expected = np.mean([((rebuilt[b, i] - target[b, i]) ** 2).mean() for b, i in np.argwhere(hidden)])
    assert math.isclose(losses.masked_patch_loss(*tensors, normalise=True).item(), expected, rel_tol=1e-5)
