"""How much of a GPU's arithmetic a training uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train import speed
from train.speed import Arithmetic


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 5090", None),
        ("", None),
    ],
)
def test_the_peak_is_that_of_the_gpu_of_this_name_and_none_is_guessed(name: str, expected: float | None) -> None:
    assert speed.peak(name, "bfloat16") == expected
    assert speed.peak(name, "float32") is None


def test_a_step_is_counted_once_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "peak", lambda name, precision: 1e6)
    arithmetic = Arithmetic("cpu", "float32")
    layers = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    for batch in (8, 1000):
        with arithmetic.counted():
            layers(torch.ones(batch, 10)).sum().backward()
    # forwards, and backwards the weights of both layers and the values between them
    products = 8 * (10 * 20 + 20 * 5) * 2 + 8 * 20 * 5
    assert arithmetic.flops == 2 * products
    assert arithmetic.utilisation(steps=10, seconds=2.0) == pytest.approx(2 * products * 10 / 2.0 / 1e6)


def test_without_a_known_peak_nothing_is_counted() -> None:
    arithmetic = Arithmetic("cpu", "bfloat16")
    with arithmetic.counted():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert arithmetic.flops is None
    assert arithmetic.utilisation(1, 1.0) is None
