"""Features that are kept for later runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.errors import StoreError
from train import features


def values() -> Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def never() -> Tensor:
    pytest.fail("computed again")


def test_what_was_computed_once_is_read_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "features-a.f32"
    assert torch.equal(features.kept(file, (7, 3), values), values())
    assert [path.name for path in tmp_path.iterdir()] == ["features-a.f32"]
    assert torch.equal(features.kept(file, (7, 3), never), values())


def test_a_file_that_has_lost_its_end_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "features-a.f32"
    file.write_bytes(values().numpy().tobytes()[:-1])
    assert torch.equal(features.kept(file, (7, 3), values), values())
    assert torch.equal(features.kept(file, (7, 3), never), values())


def test_features_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        features.kept(tmp_path / "gone" / "features-a.f32", (7, 3), values)
