"""How much of a GPU's arithmetic a training uses: its model FLOP/s utilisation (MFU)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# By a word of the GPU's name, the first that fits: FLOP/s of dense bfloat16 products, as its makers state them.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "PCIe H100": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def peak(name: str, precision: str) -> float | None:
    """FLOP/s that the device of this name reaches at most; None where that is not known."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    if precision != "bfloat16":
        return None
    return next((value for key, value in _PEAKS.items() if words.issuperset(key.split())), None)


class Arithmetic:
    """Floating-point operations of a step, forwards and backwards, of which one product and sum are two.

    `flops`: of one step of this process, once it was counted; None where the device's peak is not known.
    """

    def __init__(self, device: str, precision: str) -> None:
        name = "" if device == "cpu" else torch.cuda.get_device_name(device)
        self._peak = peak(name, precision)
        self.flops: int | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the operations in the block, if that is of use and has not been done."""
        if self._peak is None or self.flops is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()

    def utilisation(self, steps: int, seconds: float) -> float | None:
        """MFU of so many steps: the share of the peak, in [0, 1]; None where it is not known."""
        if self._peak is None or self.flops is None or seconds <= 0:
            return None
        return self.flops * steps / seconds / self._peak
