"""`mien export`: ONNX files that another program runs from their description alone, and that mien scores with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from common.bundle import folder
from common.bundle.folder import Bundle
from common.cli import main
from common.errors import MienError
from common.tasks import TASKS
from train import export
from train.models.dfer_clip import DferClipOptions
from train.models.linear import LinearOptions
from train.models.options import EncoderOptions, HeadOptions, part
from train.models.registry import ENCODERS, HEADS
from train.models.scoring import load
from train.models.tcn_transformer import TcnTransformerOptions
from train.models.vit import VitOptions

ENCODER = VitOptions(image=16, channels=1, patch=4, dim=16, depth=2, heads=2)
TEMPORAL: dict[str, Any] = {
    "channels": (8, 8),
    "dim": 8,
    "layers": 2,
    "heads": 2,
    "feedforward": 8,
    "hidden": 8,
    "windowing": {"window": 12, "stride": 8},
}
HEAD_OPTIONS: dict[str, HeadOptions] = {
    "va": TcnTransformerOptions(**TEMPORAL, weight_norm=True, norm="batch"),
    "expr": LinearOptions(),
    "au": TcnTransformerOptions(**TEMPORAL),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of random weights."""
    torch.manual_seed(5)
    heads = {task: options.build(ENCODER.features, len(TASKS[task].outputs)) for task, options in HEAD_OPTIONS.items()}
    networks: dict[str, nn.Module] = {"encoder": ENCODER.build(), **heads}
    for network in networks.values():
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    fields = {
        "name": "tiny",
        "encoder": part(ENCODER, "encoder"),
        "preprocess": {"crop": [2, 4, 24], "size": 16, "grey": True, "mean": [0.4], "std": [0.3]},
        "crop": {"size": 32},
        "heads": {
            task: part(options, task) | {"outputs": TASKS[task].outputs, "threshold": TASKS[task].threshold}
            for task, options in HEAD_OPTIONS.items()
        },
        "recipe": {},
        "data": {"videos": 3},
        "metrics": {},
        "code_version": "0",
        "licence": "Apache-2.0",
        "intended_use": "tests",
    }
    weights = {f"{name}.safetensors": network.state_dict() for name, network in networks.items()}
    return folder.write(tmp_path_factory.mktemp("made") / "bundle", fields, weights)


@pytest.fixture(scope="module")
def exported(made: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export.export(made, tmp_path_factory.mktemp("exported") / "onnx")[0]


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def windows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    valid = rng.random((5, 12)) < 0.6
    valid[:, 0] = True
    return rng.normal(size=(5, 12, 16)).astype(np.float32), valid


def test_the_description_is_enough_to_run_the_files_without_mien(made: Bundle, exported: Bundle) -> None:
    described = json.loads((exported.path / "onnx.json").read_text())
    files, preprocess = described["files"], described["preprocess"]
    assert described["bundle"]["id"] == made.manifest.id

    def run(name: str, **inputs: np.ndarray) -> np.ndarray:
        assert {key: list(value.shape[1:]) for key, value in inputs.items()} == {
            key: shape[1:] for key, shape in files[name]["inputs"].items()
        }
        (output,) = files[name]["outputs"]
        return ort.InferenceSession(exported.path / name).run([output], inputs)[0]

    x, y, side = preprocess["crop"]
    size = (preprocess["size"],) * 2
    grey = [cv2.cvtColor(crop[y : y + side, x : x + side].copy(), cv2.COLOR_RGB2GRAY) for crop in crops(7)]
    small = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in grey])[:, None]
    images = ((small / 255 - preprocess["mean"][0]) / preprocess["std"][0]).astype(np.float32)
    model = load(made)
    np.testing.assert_allclose(run("encoder.onnx", images=images), model.encode(crops(7)), atol=1e-4)
    features, valid = windows()
    for task in ("va", "au"):
        expected = model.predict([task], features, valid)[task]
        found = run(f"{task}.onnx", features=features, valid=valid)
        np.testing.assert_allclose(found[valid], expected[valid], atol=1e-5)
        assert files[f"{task}.onnx"]["values"] == list(TASKS[task].outputs)
    single, always = features[:, :1], np.ones((5, 1), bool)
    np.testing.assert_allclose(
        run("expr.onnx", features=single, valid=always), model.predict(["expr"], single, always)["expr"], atol=1e-6
    )


def test_the_export_is_a_bundle_that_scores_as_the_original(made: Bundle, exported: Bundle) -> None:
    assert exported.manifest.encoder.kind == "onnx"
    assert exported.manifest.id != made.manifest.id
    opened, original = load(Bundle.open(exported.path)), load(made)
    np.testing.assert_allclose(opened.encode(crops(3)), original.encode(crops(3)), atol=1e-4)
    features, valid = windows()
    for task in ("va", "au"):
        found, expected = (model.predict([task], features, valid)[task] for model in (opened, original))
        np.testing.assert_array_equal(found, expected)


def test_what_is_not_valid_is_zero(exported: Bundle) -> None:
    features, valid = windows()
    session = ort.InferenceSession(exported.path / "au.onnx")
    assert (session.run(None, {"features": features, "valid": valid})[0][~valid] == 0).all()


def test_the_differences_are_told_and_kept(made: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "onnx"
    assert main(["export", str(made.path), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    kept = json.loads((out / "onnx.json").read_text())["files"]
    assert list(kept) == ["encoder.onnx", "va.onnx", "expr.onnx", "au.onnx"]
    for name, file in kept.items():
        assert 0 <= file["largest_difference"] < 1e-5
        assert f"{name:<13} differs from the bundle by {file['largest_difference']:.1e} at most" in told
    manifest = json.loads((out / "bundle.json").read_text())
    assert manifest["data"]["exported"]["from"] == made.manifest.id
    assert manifest["data"]["videos"] == 3


def test_a_folder_that_is_taken_is_not_written(
    made: Bundle, exported: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    for out, problem in (
        (tmp_path, "exists and is not a bundle"),
        (exported.path, "replace it with --force"),
    ):
        assert main(["export", str(made.path), "--out", str(out)]) == 2
        assert problem in capsys.readouterr().err
    assert main(["export", str(made.path), "--out", str(made.path), "--force"]) == 2
    assert "name another folder" in capsys.readouterr().err


def test_an_encoder_that_is_onnx_already_is_refused(
    exported: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(exported.path), "--out", str(tmp_path / "again")]) == 2
    assert f"is an ONNX file already: {exported.path / 'encoder.onnx'}" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


class Random(nn.Module):
    """Gives other values each time."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + torch.rand_like(images.flatten(1))


class NotANumber(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * float("nan")


@pytest.mark.parametrize("network", [Random(), NotANumber()])
def test_a_network_that_does_not_come_out_the_same_is_refused(network: nn.Module) -> None:
    with pytest.raises(MienError, match=r"^encoder as ONNX gives other values than the bundle, they differ by "):
        export._graph("encoder", network, images(1, 4), "features")


def images(channels: int, side: int) -> Callable[[int], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return lambda count: {"images": torch.randn((count, channels, side, side), generator=generator)}


ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "clip": {"image": 16, "patch": 8, "dim": 16, "depth": 2, "heads": 2, "projection": 8},
    "mini_xception": {"image": 48},
    "vit": {"image": 16, "patch": 8, "dim": 16, "depth": 2, "heads": 2},
}


@pytest.mark.parametrize("kind", sorted(set(ENCODERS) - {"onnx"}))
def test_every_kind_of_encoder_can_be_exported(kind: str) -> None:
    options: EncoderOptions = ENCODERS[kind].model_validate(ENCODER_OPTIONS[kind])
    found = export._graph("encoder", options.build(), images(*options.input), "features")
    assert found.output == {"features": ["batch", options.features]}
    assert found.difference < 1e-5


TEXT: dict[str, int] = {"width": 16, "depth": 1, "heads": 2}
KINDS_OF_HEADS: dict[str, HeadOptions] = {
    "linear": LinearOptions(),
    "tcn_transformer": TcnTransformerOptions(**TEMPORAL),
    "dfer_clip": DferClipOptions(windowing={"fps": 5.0, "window": 12}, text=TEXT, prompts={"conditional": True}),
}


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_every_kind_of_head_can_be_exported(kind: str) -> None:
    def example(count: int) -> dict[str, Tensor]:
        features, valid = windows()
        return {"features": torch.from_numpy(features[:count]), "valid": torch.from_numpy(valid[:count])}

    head = export._Activated(KINDS_OF_HEADS[kind].build(16, 8), TASKS["expr"])
    found = export._graph("expr", head, example, "values")
    assert found.output == {"values": ["batch", 12, 8]}
    assert found.difference < 1e-5
