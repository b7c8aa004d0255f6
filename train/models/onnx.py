"""An encoder that is an ONNX file, run by ONNX Runtime. Its features are the outputs of the file, side by side.

ONNX Runtime is faster on CPUs: on one thread, EfficientNet-B0 encodes 40 to 46 pictures per second instead of 13 to 20
in PyTorch (batches of 32 and 8, float32). On GPUs its CUDA build is used if it is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from common.config import Config
from common.errors import UsageError
from train.models.options import EncoderOptions

if TYPE_CHECKING:
    import onnxruntime

_SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1, where logarithms are infinite


class GraphOutput(Config):
    """An output of the file, float [B, width]. Heads give raw values, so probabilities are converted back to them."""

    name: str
    width: int = Field(gt=0)
    softmaxed: tuple[int, ...] = Field((), description="positions of values that went through a softmax")
    sigmoided: tuple[int, ...] = Field((), description="positions of values that went through a sigmoid")


class OnnxOptions(EncoderOptions):
    """The input and the outputs of the file."""

    kind: Literal["onnx"] = "onnx"
    image: int = Field(gt=0, description="side of the picture, px")
    colour: Literal["rgb", "bgr", "grey"] = Field("rgb", description="channels of the input, in order")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="order of the input's dimensions")
    outputs: tuple[GraphOutput, ...] = Field(min_length=1, description="what the file gives, see docs/import.md")

    @property
    def input(self) -> tuple[int, int]:
        return 1 if self.colour == "grey" else 3, self.image

    @property
    def features(self) -> int:
        return sum(output.width for output in self.outputs)

    def build(self) -> NoReturn:
        raise UsageError(
            "an encoder of kind onnx, from `mien import` or `mien export`, cannot be trained: choose another kind"
        )

    def load(self, file: Path, device: str) -> OnnxEncoder:
        return OnnxEncoder(self, file.read_bytes(), device)


class OnnxEncoder(nn.Module):
    """Pictures float [B, C, s, s], RGB or grey -> features float [B, D].

    Raises ValueError for data that is no ONNX file, or whose input or outputs do not fit the options.
    """

    def __init__(self, options: OnnxOptions, data: bytes, device: str = "cpu") -> None:
        super().__init__()
        self.options = options
        self._session = open_session(data, device)
        self._input, self._batch = _check_input(self._session, options)
        _check_outputs(self._session, options)

    @property
    def outputs(self) -> list[str]:
        """The names of all outputs of the file."""
        return [output.name for output in self._session.get_outputs()]

    def forward(self, images: Tensor) -> Tensor:
        pictures = images.float()
        if self.options.colour == "bgr":
            pictures = pictures.flip(1)
        if self.options.layout == "nhwc":
            pictures = pictures.permute(0, 2, 3, 1)
        features = self._run(np.ascontiguousarray(pictures.cpu().numpy()))
        return torch.from_numpy(features).to(images.device)

    def _run(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs all pictures at once; or, if the file takes one batch size only, in batches filled up with zeros."""
        size = self._batch or max(1, len(pictures))
        names = [output.name for output in self.options.outputs]
        done = []
        for start in range(0, len(pictures), size):
            piece = pictures[start : start + size]
            missing = size - len(piece) if self._batch else 0
            filled = np.pad(piece, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else piece
            values = self._session.run(names, {self._input: filled})
            done.append(np.concatenate(list(map(_raw, self.options.outputs, values)), axis=1)[: len(piece)])
        return np.concatenate(done) if done else np.zeros((0, self.options.features), np.float32)


def open_session(data: bytes, device: str = "cpu") -> onnxruntime.InferenceSession:
    """A session that runs an ONNX file, with as many threads as torch has. Raises ValueError for any other data.

    A file may name other files that hold its weights: they are never read.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so they need no log
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes use the same cores
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in ort.get_available_providers()]
    try:
        return ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        reason = " ".join(str(error).split()).rsplit(" : ", 1)[-1].rstrip(".")
        raise ValueError(f"ONNX Runtime cannot load it ({reason[:200]})") from None


def _check_input(session: onnxruntime.InferenceSession, options: OnnxOptions) -> tuple[str, int | None]:
    """The input's name, and the number of pictures that it takes, None for any number."""
    channels, side = options.input
    wanted = (channels, side, side) if options.layout == "nchw" else (side, side, channels)
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    fits = len(shape) == 4 and all(
        isinstance(got, str | None) or got == n for got, n in zip(shape[1:], wanted, strict=True)
    )
    if not fits or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{each.name} {each.type}{each.shape}" for each in inputs) or "no input"
        raise ValueError(
            f"it should have one input tensor(float)[any number, {', '.join(map(str, wanted))}], not {found}"
        )
    return inputs[0].name, shape[0] if isinstance(shape[0], int) else None


def _check_outputs(session: onnxruntime.InferenceSession, options: OnnxOptions) -> None:
    found = {output.name: output.shape for output in session.get_outputs()}
    for output in options.outputs:
        if output.name not in found:
            raise ValueError(f"it has no output {output.name!r}: its outputs are {', '.join(found)}")
        shape = found[output.name]
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != output.width):
            raise ValueError(f"its output {output.name!r} has the shape {shape}, not [any number, {output.width}]")


def _raw(output: GraphOutput, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of an output, with probabilities converted to raw values: logarithms, or logarithms of the odds."""
    if values.shape[1] != output.width:
        raise ValueError(f"its output {output.name!r} gave {values.shape[1]} values for a picture, not {output.width}")
    raw = np.array(values, np.float32)
    shares, chances = (
        np.clip(raw[:, list(positions)], _SMALLEST, 1 - _SMALLEST) for positions in (output.softmaxed, output.sigmoided)
    )
    raw[:, list(output.softmaxed)] = np.log(shares)
    raw[:, list(output.sigmoided)] = np.log(chances) - np.log1p(-chances)
    return raw
