"""Position tables of square grids of patches: float [patches, D], row by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def position_table(dim: int, grid: int) -> Tensor:
    """float32 [grid^2, dim]: sines and cosines of the column in the first half, of the row in the second."""
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)
    return torch.cat([columns, rows], dim=1).float()


def resampled(table: Tensor, grid: int) -> Tensor:
    """A trained table for a grid of another size, float32 [grid^2, D]: bicubic interpolation, as in timm and open_clip.

    Raises ValueError for a table of a grid that is not square.
    """
    before = math.isqrt(len(table))
    if before**2 != len(table):
        raise ValueError(f"its position table is of {len(table)} patches, which form no square")
    if before == grid:
        return table.float()
    picture = table.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    scaled = nn.functional.interpolate(picture, (grid, grid), mode="bicubic", antialias=True)
    return scaled[0].permute(1, 2, 0).reshape(grid * grid, -1)
