"""Small ONNX files in the layout of published ones: the mean colour of a picture, times a matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def matrix(values: int, seed: int = 0) -> NDArray[np.float32]:
    """float32 [3, values]."""
    return np.random.default_rng(seed).normal(size=(3, values)).astype(np.float32)


def model(
    values: int,
    size: int = 224,
    *,
    output: str = "output",
    batch: int | str = "batch_size",
    layout: str = "nchw",
    last: str | None = None,
) -> bytes:
    """Input float [batch, 3, size, size] or [batch, size, size, 3], output float [batch, values].

    `last`: an operator after the matrix, such as Softmax.
    """
    shape = [batch, 3, size, size] if layout == "nchw" else [batch, size, size, 3]
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["colour"], axes=[2, 3] if layout == "nchw" else [1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "matrix"], ["raw" if last else output]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["raw"], [output]))
    return encoded(nodes, shape, {output: [batch, values]}, {"matrix": matrix(values)})


def encoded(
    nodes: list, shape: list[int | str], outputs: dict[str, list[int | str]], constants: dict[str, NDArray]
) -> bytes:
    """A graph with the one input `input`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return made.SerializeToString()


def write(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file
