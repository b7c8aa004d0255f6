"""`mien export`: the networks of a bundle as ONNX files, each compared with the original before it is written."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.bundle import folder
from common.bundle.folder import Bundle
from common.bundle.manifest import BundleManifest
from common.errors import MienError, UsageError
from common.tasks import TASKS, Task
from train.models.onnx import GraphOutput, OnnxOptions, open_session
from train.models.options import part
from train.models.preprocess import channels, normalise
from train.models.scoring import load

DESCRIPTION = "onnx.json"
BOUND = 1e-4
"""Largest difference between the outputs of ONNX Runtime and PyTorch, times the largest output if that is above 1."""

_OPSET = 17
_BATCHES = (1, 3)  # that the comparison is made with; the file is made with another


@dataclass(frozen=True)
class Graph:
    """An ONNX file: its bytes, the shapes of its inputs and its output by name, and how far it is from the original."""

    data: bytes
    inputs: dict[str, list[str | int]]
    output: dict[str, list[str | int]]
    difference: float


def export(bundle: Bundle, out: Path) -> tuple[Bundle, dict[str, Graph]]:
    """Writes the folder `out`: ONNX files, what they take and give (`onnx.json`), and a bundle with that encoder.

    Returns the bundle, and the graphs by name: "encoder" and the tasks. Raises UsageError for a bundle whose encoder is
    an ONNX file and for its own folder, MienError for a network that does not come out the same.
    """
    manifest = bundle.manifest
    if manifest.encoder.file.endswith(".onnx"):
        raise UsageError(
            f"the encoder of the bundle {bundle.path} is an ONNX file already: {bundle.path / manifest.encoder.file}"
        )
    if out.resolve() == bundle.path.resolve():
        raise UsageError(f"the bundle would be replaced by its export: name another folder than {out} with --out")
    model = load(bundle)
    generator = torch.Generator().manual_seed(0)
    side = manifest.preprocess.size
    shape = (channels(manifest.preprocess), side, side)

    def images(count: int) -> dict[str, Tensor]:
        pictures = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        return {"images": normalise(pictures, manifest.preprocess)}

    graphs = {"encoder": _graph("encoder", model.encoder, images, "features")}
    width = int(graphs["encoder"].output["features"][-1])
    for task, head in model.heads.items():
        window = 1 if head.windowing is None else head.windowing.window

        def windows(count: int, window: int = window) -> dict[str, Tensor]:
            valid = torch.rand((count, window), generator=generator) < 0.8
            valid[:, 0] = True  # a head wants a valid position in each window
            return {"features": torch.randn((count, window, width), generator=generator), "valid": valid}

        graphs[task] = _graph(task, _Activated(head.network, TASKS[task]), windows, "values")
    return _write(bundle, out, graphs), graphs


class _Activated(nn.Module):
    """A head with its activation: what mien publishes, 0 at positions that are not valid."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid[..., None], self.task.activate(self.network(features, valid)), 0.0)


def _graph(name: str, network: nn.Module, example: Callable[[int], dict[str, Tensor]], output: str) -> Graph:
    """The network as an ONNX file for batches of any size; `example` gives random inputs for a batch of a size."""
    given = example(2)
    batch = {key: {0: "batch"} for key in (*given, output)}
    file = io.BytesIO()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no operator for a Transformer's layer as a whole
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                tuple(given.values()),
                file,  # type: ignore[arg-type]
                input_names=list(given),
                output_names=[output],
                dynamic_axes=batch,
                opset_version=_OPSET,
                dynamo=False,  # the other exporter needs a further package, and fails where DeepSpeed is imported
            )
    except RuntimeError as error:
        raise MienError(f"{name} cannot be written as ONNX: {str(error).splitlines()[0]}") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    shape, difference = _compare(name, network, file.getvalue(), example)
    inputs: dict[str, list[str | int]] = {key: ["batch", *tensor.shape[1:]] for key, tensor in given.items()}
    return Graph(file.getvalue(), inputs, {output: ["batch", *shape]}, difference)


def _compare(
    name: str, network: nn.Module, data: bytes, example: Callable[[int], dict[str, Tensor]]
) -> tuple[tuple[int, ...], float]:
    """The shape of the output of an example, and the largest difference. Raises MienError for one beyond the bound."""
    session = open_session(data)
    largest = 0.0
    for count in _BATCHES:
        given = example(count)
        with torch.inference_mode():
            expected = network(*given.values()).numpy()
        (found,) = session.run(None, {key: tensor.numpy() for key, tensor in given.items()})
        difference = float(np.abs(found - expected).max())
        if not difference <= BOUND * max(1.0, float(np.abs(expected).max())):
            raise MienError(
                f"{name} as ONNX gives other values than the bundle, they differ by {difference:.2g}: none is written"
            )
        largest = max(largest, difference)
    return expected.shape[1:], largest


def _write(bundle: Bundle, out: Path, graphs: Mapping[str, Graph]) -> Bundle:
    manifest = bundle.manifest
    features = graphs["encoder"].output["features"][-1]
    options = OnnxOptions(
        image=manifest.preprocess.size,
        colour="grey" if manifest.preprocess.grey else "rgb",
        outputs=(GraphOutput(name="features", width=int(features)),),
    )
    differences = {f"{name}.onnx": graph.difference for name, graph in graphs.items()}
    fields = manifest.model_dump(mode="json", exclude={"id", "files", "schema_version"}) | {
        "encoder": part(options, "encoder") | {"file": "encoder.onnx"},
        "data": manifest.data | {"exported": {"from": manifest.id, "largest_difference": differences}},
    }
    weights = {head.file: (bundle.path / head.file).read_bytes() for head in manifest.heads.values()}
    description = json.dumps(_description(manifest, graphs), indent=2) + "\n"
    beside = {f"{task}.onnx": graphs[task].data for task in manifest.heads} | {DESCRIPTION: description.encode()}
    return folder.write(out, fields, {"encoder.onnx": graphs["encoder"].data, **weights}, beside)


def _description(manifest: BundleManifest, graphs: Mapping[str, Graph]) -> dict[str, Any]:
    """What a program without mien must know to run the files."""
    files: dict[str, Any] = {}
    for name, graph in graphs.items():
        files[f"{name}.onnx"] = {
            "sha256": hashlib.sha256(graph.data).hexdigest(),
            "inputs": graph.inputs,
            "outputs": graph.output,
            "largest_difference": graph.difference,
        }
    for task, head in manifest.heads.items():
        windowing = head.options.get("windowing")
        files[f"{task}.onnx"] |= {"values": head.outputs, "threshold": head.threshold, "windowing": windowing}
    return {
        "bundle": {"name": manifest.name, "id": manifest.id, "licence": manifest.licence},
        "bound": BOUND,
        "opset": _OPSET,
        "crop": manifest.crop.model_dump(mode="json"),
        "preprocess": manifest.preprocess.model_dump(mode="json"),
        "files": files,
    }
