"""An exponential moving average of the weights that a stage trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """Averages parameters; buffers, such as the statistics of BatchNorm, are as they are after the last step.

    The decay of the first steps is lower, (1 + n) / (10 + n) after n steps, so that the random weights of the start are
    soon forgotten (as TensorFlow's ExponentialMovingAverage does with `num_updates`).
    """

    def __init__(self, decay: float, weights: Mapping[str, Tensor], parameters: set[str], device: str) -> None:
        """`weights`: those of the start, or the average so far. `parameters`: the names of those that are averaged."""
        self._decay, self._parameters = decay, parameters
        self.weights = {name: tensor.detach().to(device, copy=True) for name, tensor in weights.items()}

    def add(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Adds the weights after step number `step`."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, tensor in weights.items():
                if name in self._parameters:
                    self.weights[name].lerp_(tensor, share)
                else:
                    self.weights[name].copy_(tensor)
