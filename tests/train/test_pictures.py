"""The pictures that a run leaves behind: learning curves, and what the masked autoencoder rebuilds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from train import curves, reconstructions
from train.objectives import MaePretrain
from train.recipe import Recipe

VA = {"by": "ccc_mean", "step": 10, "score": 0.4}
MAE = {"by": None, "step": 20, "score": None}


def log(*validated: float | None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 10 * n, "loss": 3.0 - n, "lr": 0.1 * n} for n in range(3)]
    for line, value in zip(lines[1:], validated, strict=False):
        line["metrics"] = {"ccc_valence": 0.1, "ccc_mean": value, "ccc_arousal": 0.2}
    return lines


def test_curves_have_a_row_for_each_stage_with_its_loss_rate_and_metrics() -> None:
    figure = curves.figure_of({"mae": log(), "va": log(0.4, None)}, {"mae": MAE, "va": VA})
    losses = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_ylabel() == "loss"}
    assert list(losses) == ["mae", "va"]
    for axes in losses.values():
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 3], [10, 2], [20, 1]])
    (scores,) = (axes for axes in figure.axes if axes.get_ylabel() == "on validation videos")
    lines = {line.get_label(): line for line in scores.lines}
    assert list(lines) == ["ccc_mean", "ccc_valence", "ccc_arousal", "kept: step 10"]
    np.testing.assert_array_equal(lines["ccc_mean"].get_xydata(), [[10, 0.4], [20, np.nan]])
    assert lines["kept: step 10"].get_xdata()[0] == 10
    assert "mae was not validated on its way" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_of_many_metrics_the_score_alone_is_drawn() -> None:
    lines = [{"step": 0, "loss": 1.0, "lr": 0.1, "metrics": {"f1_action_units": 0.5, "a": 0, "b": 0, "c": 0}}]
    figure = curves.figure_of({"au": lines}, {"au": {"by": "f1_action_units", "step": 0, "score": 0.5}})
    (scores,) = (axes for axes in figure.axes if axes.get_ylabel() == "on validation videos")
    assert [line.get_label() for line in scores.lines] == ["f1_action_units", "kept: step 0"]


def test_curves_are_drawn_of_the_stages_that_have_a_log(tmp_path: Path) -> None:
    stages, out = {"mae": MAE | {"file": "mae-1.safetensors"}, "va": VA | {"file": "va-2.safetensors"}}, tmp_path / "x"
    curves.draw(out, stages)
    assert not out.exists()
    (tmp_path / "va-2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(0.3, 0.4)))
    curves.draw(out, stages)
    height, width, _ = cv2.imread(str(out)).shape
    assert (width, height) == (1320, 286)


def objective(norm_pix: bool) -> MaePretrain:
    return MaePretrain(
        Recipe.model_validate(
            {
                "name": "toy",
                "intended_use": "tests",
                "licence": "none",
                "preprocess": {"crop": [0, 0, 16], "size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.2]},
                "encoder": {"kind": "vit", "image": 16, "patch": 4, "dim": 8, "depth": 1, "heads": 1},
                "mae": {
                    "steps": 1,
                    "batch": 1,
                    "lr": 1,
                    "norm_pix": norm_pix,
                    "decoder": {"dim": 8, "depth": 1, "heads": 1},
                },
                "finetune": {"steps": 1, "batch": 1, "lr": 1},
                "heads": {"frame": {"steps": 1, "batch": 1, "lr": 1, "model": {"kind": "linear"}}},
            }
        )
    )


def pictures() -> Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_reconstruction_keeps_what_was_seen_and_hides_or_rebuilds_the_rest() -> None:
    images = pictures()
    masked, rebuilt = reconstructions.rebuild(objective(norm_pix=False), images, seed=3)
    same = (masked == images).all(dim=1)
    grey = (masked == 128).all(dim=1)
    assert (same | grey).all()
    assert grey.float().mean((1, 2)).tolist() == [0.75] * 3
    seen = same & ~grey
    assert torch.equal(rebuilt.permute(0, 2, 3, 1)[seen], images.permute(0, 2, 3, 1)[seen])
    assert not torch.equal(rebuilt, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_faces_above_what_was_seen_of_them_and_what_was_rebuilt(
    channels: int, tmp_path: Path
) -> None:
    levels = 20 + 40 * torch.arange(6, dtype=torch.uint8)
    images, masked, rebuilt = levels.view(3, 2, 1, 1, 1).expand(3, 2, channels, 16, 16)
    reconstructions.draw(tmp_path / "a.png", images, masked, rebuilt, "two faces")
    drawn = cv2.imread(str(tmp_path / "a.png")).astype(int)
    centres = np.array([np.argwhere((abs(drawn - level) < 2).all(-1)).mean(0) for level in levels.tolist()]).reshape(
        3, 2, 2
    )
    assert np.ptp(centres[:, :, 0], axis=1).max() < 1, "the faces of a row are at one height"
    assert np.ptp(centres[:, :, 1], axis=0).max() < 1, "what is of one face is in one column"
    assert (np.diff(centres[:, :, 0], axis=0) > 50).all()
    assert (np.diff(centres[:, :, 1], axis=1) > 50).all()


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_network_that_gives_exactly_what_the_loss_asks_for_rebuilds_the_picture(norm_pix: bool) -> None:
    class Perfect(torch.nn.Module):
        """Its prediction has no loss: the patches, with `norm_pix` of zero mean and unit variance each."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.patches, self.pictures, self.network = network.patches, network.pictures, network

        def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            patches = self.patches(images)
            target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6) ** 0.5
            return (target if norm_pix else patches), self.network(images, noise)[1]

    made, images = objective(norm_pix), pictures()
    made.model = Perfect(made.model)
    assert torch.equal(reconstructions.rebuild(made, images, seed=3)[1], images)
