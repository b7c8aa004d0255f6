"""MTCNN's three networks, with the weights in the installed package facenet-pytorch.

No code of facenet-pytorch or torchvision is imported: they import torch's compiler and more, which takes longer than
torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

POOLS = {"pnet": (2, 0, 0), "rnet": (3, 3, 0), "onet": (3, 3, 2, 0)}  # side of the pooling after each convolution


class Network:
    """Convolutions, each with a PReLU and some with a pooling; in two networks a dense layer; two or three heads.

    Pictures float32 [K, 3, h, w] -> shifts of the box [K, 4, ...], landmarks [K, 10] if there are any, and
    probabilities [K, 2, ...], the second that of a face.
    """

    def __init__(self, name: str) -> None:
        self._pools: Sequence[int] = POOLS[name]
        stored = torch.load(_installed("facenet_pytorch", f"data/{name}.pt"), map_location="cpu", weights_only=True)
        layout = {4: torch.channels_last}
        self._weights: dict[str, Tensor] = {
            name: weight.contiguous(memory_format=layout.get(weight.dim(), torch.contiguous_format))
            for name, weight in stored.items()
        }

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        for n, pool in enumerate(self._pools, 1):
            x = self._activated(n, functional.conv2d(x, *self._layer(f"conv{n}")))
            if pool:
                x = functional.max_pool2d(x, pool, 2, ceil_mode=True)
        n = len(self._pools) + 1
        if f"dense{n}.weight" not in self._weights:
            return functional.conv2d(x, *self._layer(f"conv{n}_2")), self._face(functional.conv2d, x, f"conv{n}")
        x = x.permute(0, 3, 2, 1).flatten(1)  # column by column, as in training
        x = self._activated(n, functional.linear(x, *self._layer(f"dense{n}")))
        others = [name for name in (f"dense{n + 1}_2", f"dense{n + 1}_3") if f"{name}.weight" in self._weights]
        shifts = [functional.linear(x, *self._layer(name)) for name in others]
        return *shifts, self._face(functional.linear, x, f"dense{n + 1}")

    def _face(self, layer: Callable[..., Tensor], x: Tensor, name: str) -> Tensor:
        return layer(x, *self._layer(f"{name}_1")).softmax(dim=1)

    def _activated(self, n: int, x: Tensor) -> Tensor:
        return functional.prelu(x, self._weights[f"prelu{n}.weight"])

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Indices of the boxes [K, 4] that overlap no better box by more than `iou`, best first: torchvision's function."""
    return _operators().nms(boxes, scores, iou)


@cache
def _operators() -> Any:
    torch.ops.load_library(_installed("torchvision", "_C.so"))
    return torch.ops.torchvision


def _installed(package: str, file: str) -> Path:
    """A file of a package, found without importing it."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / file
