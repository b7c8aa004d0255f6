"""From aligned crops to an encoder's input, the same in training and in scoring."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.bundle.manifest import Preprocess


def channels(options: Preprocess) -> int:
    """Channels of the encoder's input."""
    return 1 if options.grey else 3


def prepare(crops: NDArray[np.uint8], options: Preprocess) -> NDArray[np.uint8]:
    """Aligned crops uint8 RGB [B, S, S, 3] -> uint8 [B, C, s, s]: cut, made grey if wanted, and scaled."""
    x, y, side = options.crop
    out = np.empty((len(crops), channels(options), options.size, options.size), np.uint8)
    for each, crop in zip(out, crops, strict=True):
        cut = np.ascontiguousarray(crop[y : y + side, x : x + side])
        if options.grey:
            cut = cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY)
        shrinks = side > options.size
        scaled = cv2.resize(cut, (options.size,) * 2, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        each[:] = scaled.reshape(options.size, options.size, channels(options)).transpose(2, 0, 1)
    return out


def normalise(images: Tensor, options: Preprocess) -> Tensor:
    """Pictures [B, C, s, s] with values in [0, 255] -> float32, as the encoder takes them."""
    x = images.float() / 255
    if options.standardise:
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3)
    if options.mean is not None and options.std is not None:
        mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (options.mean, options.std))
        x = (x - mean) / std
    return x


def denormalise(values: Tensor, images: Tensor, options: Preprocess) -> Tensor:
    """What `normalise` turns into `values`, with values in [0, 255]; `images` say how each picture was normalised."""
    x = values.float()
    if options.mean is not None and options.std is not None:
        mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (options.mean, options.std))
        x = x * std + mean
    if options.standardise:
        before = images.float() / 255
        x = x * (before.std((1, 2, 3), keepdim=True) + 1e-3) + before.mean((1, 2, 3), keepdim=True)
    return x * 255
