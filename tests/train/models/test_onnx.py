"""An encoder that is an ONNX file gives what the arithmetic of its graph gives, in whatever layout and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
import torch
from onnx import helper

from common.errors import UsageError
from train.models.onnx import GraphOutput, OnnxEncoder, OnnxOptions

OUTPUT = GraphOutput(name="output", width=10)


def options(**changes: Any) -> OnnxOptions:
    return OnnxOptions(**({"image": 32, "outputs": (OUTPUT,)} | changes))


def pictures(count: int, size: int = 32) -> torch.Tensor:
    """RGB, each of its own colours."""
    rng = np.random.default_rng(3)
    colours = rng.normal(size=(count, 3, 1, 1))
    return torch.from_numpy((rng.normal(size=(count, 3, size, size)) + colours).astype(np.float32))


def expected(images: torch.Tensor, values: int = 10) -> np.ndarray:
    return images.numpy().mean((2, 3)) @ onnx_files.matrix(values)


@pytest.mark.parametrize("batch", ["batch_size", 4, 1])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_it_gives_the_same_in_every_batch_whatever_number_of_pictures_the_file_takes(
    batch: int | str, count: int
) -> None:
    encoder = OnnxEncoder(options(), onnx_files.model(10, 32, batch=batch))
    found = encoder(pictures(count))
    np.testing.assert_allclose(found.numpy(), expected(pictures(count)), atol=1e-5)
    alone = torch.cat([encoder(picture[None]) for picture in pictures(count)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_the_order_of_channels_and_dimensions_is_the_files() -> None:
    images = pictures(3)
    last = OnnxEncoder(options(layout="nhwc"), onnx_files.model(10, 32, layout="nhwc"))
    np.testing.assert_allclose(last(images).numpy(), expected(images), atol=1e-5)
    swapped = OnnxEncoder(options(colour="bgr"), onnx_files.model(10, 32))
    np.testing.assert_allclose(swapped(images).numpy(), expected(images.flip(1)), atol=1e-5)


@pytest.mark.parametrize(("last", "field"), [("Softmax", "softmaxed"), ("Sigmoid", "sigmoided")])
def test_probabilities_come_back_from_the_raw_values(last: str, field: str) -> None:
    images = pictures(5)
    data = onnx_files.model(10, 32, last=last)
    plain = OnnxEncoder(options(), data)(images)
    raw = OnnxEncoder(options(outputs=(GraphOutput(name="output", width=10, **{field: tuple(range(10))}),)), data)(
        images
    )
    again = raw.softmax(1) if last == "Softmax" else raw.sigmoid()
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=0)


def test_probabilities_of_exactly_0_and_1_stay_finite() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "edges"], ["output"]),
    ]
    constants = {"nothing": np.zeros((3, 2), np.float32), "edges": np.array([0, 1], np.float32)}
    data = onnx_files.encoded(nodes, ["n", 3, 32, 32], {"output": ["n", 2]}, constants)
    for field in ("softmaxed", "sigmoided"):
        output = GraphOutput(name="output", width=2, **{field: (0, 1)})
        assert OnnxEncoder(options(outputs=(output,)), data)(pictures(2)).isfinite().all()


def test_features_are_the_outputs_side_by_side() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "matrix"], ["a"]),
        helper.make_node("Neg", ["colour"], ["b"]),
    ]
    data = onnx_files.encoded(nodes, ["n", 3, 32, 32], {"a": ["n", 4], "b": ["n", 3]}, {"matrix": onnx_files.matrix(4)})
    outputs = (GraphOutput(name="b", width=3), GraphOutput(name="a", width=4))
    chosen = options(outputs=outputs)
    images = pictures(2)
    wanted = np.concatenate([-images.numpy().mean((2, 3)), expected(images, 4)], axis=1)
    assert chosen.features == 7
    np.testing.assert_allclose(OnnxEncoder(chosen, data)(images).numpy(), wanted, atol=1e-5)


def test_it_works_with_as_many_threads_as_torch() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            session = OnnxEncoder(options(), onnx_files.model(10, 32))._session
            assert session.get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (options(image=48), r"one input tensor\(float\)\[any number, 3, 48, 48\], not input tensor\(float\)\["),
        (options(layout="nhwc"), r"\[any number, 32, 32, 3\], not"),
        (options(outputs=(GraphOutput(name="logits", width=10),)), "no output 'logits': its outputs are output"),
        (options(outputs=(GraphOutput(name="output", width=8),)), r"'output' has the shape .*, not \[any number, 8\]"),
    ],
)
def test_a_file_that_takes_or_gives_something_else_is_refused(chosen: OnnxOptions, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OnnxEncoder(chosen, onnx_files.model(10, 32))


def test_weights_beside_the_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data

    inside = onnx.load_from_string(onnx_files.model(10, 32))
    convert_model_to_external_data(inside, location="weights.bin", size_threshold=0)
    onnx.save(inside, tmp_path / "net.onnx")
    assert (tmp_path / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="ONNX Runtime cannot load it"):
        OnnxEncoder(options(), (tmp_path / "net.onnx").read_bytes())


def test_it_cannot_be_trained() -> None:
    with pytest.raises(UsageError, match="cannot be trained"):
        options().build()
