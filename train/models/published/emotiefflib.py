"""Imports EmotiEffLib's networks (Savchenko et al.): ONNX files of its repository, trained on AffectNet.

They give eight expressions, or seven without contempt; those named `_mtl` also valence and arousal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import scratch
from common.download import download
from common.errors import UsageError
from train.models.onnx import open_session
from train.models.published import described
from train.models.published.published import Published, read

ADDRESS = (
    "https://raw.githubusercontent.com/sb-ai-lab/EmotiEffLib/520a051c64cd191521e5934655314e769a319684/"
    "models/affectnet_emotions/onnx"
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
EIGHT = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@dataclass(frozen=True)
class File:
    """One of the files: its digest, the side of its pictures in pixels, and their normalisation."""

    sha256: str
    size: int
    scale: Mapping[str, tuple[float, ...]]


FILES = {
    "enet_b0_8_best_afew": File("7aa2ea31c1311f4f8aa9d3fdb085d418dd4e7a48c4b9ed41df8c044f91d0213f", 224, IMAGENET),
    "enet_b0_8_best_vgaf": File("fa07e841fd06c7a67ee651ea4e6e4a3a2bb5695f47b37a7da50492526f59c898", 224, IMAGENET),
    "enet_b0_8_va_mtl": File("c43e056ad388d4a8dc911832b8291435b2af537f967e5870ebd731574ec7e812", 224, IMAGENET),
    "enet_b2_7": File("7863032d8c0c0bc259aa0dd7b8ebf6b607af454e7a0ea82be2b37767914ecd0f", 260, IMAGENET),
    "enet_b2_8": File("180a9d4845b59393de4511598a0d1d34b705034691ea32959ce5009db7cf52b7", 260, IMAGENET),
    "mbf_va_mtl": File("0323ace52ea6dbe9aa4a909d20933f7b8629c3fb41249e338f4316abf2a4828c", 112, HALF),
    "mobilevit_va_mtl": File("93a2bee1f2e0b04e313c695078e9351c75e8fb4c457af4268a1716cb35601b0c", 224, IMAGENET),
}


def published(file: Path, sha256: str | None = None) -> Published:
    """The bundle of a downloaded file. Raises UsageError for an unknown name, a wrong digest or a wrong network.

    `sha256`: the expected digest, if it is not the published one.
    """
    model = _model(file)
    data, digest = read(file, sha256 or FILES[model].sha256, f"the {model} that EmotiEffLib published")
    try:
        output = open_session(data).get_outputs()[0].name  # the files do not all name it alike
    except ValueError as error:
        raise UsageError(f"{file} is no network: {error}") from None
    return described.around(file.name, data, digest, _description(model, output))


def downloaded(model: str, sha256: str | None = None) -> Published:
    """The same for a file from the project's repository. Raises MienError if the download fails."""
    known = FILES[_model(Path(model))]
    otherwise = "fetch it by other means, and name the file without --download"
    with scratch.folder() as folder:
        file = Path(folder) / f"{Path(model).stem}.onnx"
        download(f"{ADDRESS}/{file.name}", file, sha256 or known.sha256, otherwise)
        return published(file, sha256)


def _model(file: Path) -> str:
    if file.stem not in FILES:
        raise UsageError(
            f"{file.name} is no file of EmotiEffLib that is known here: name one of {', '.join(FILES)}, or describe it "
            "to `mien import onnx`"
        )
    return file.stem


def _description(model: str, output: str) -> described.Description:
    file = FILES[model]
    expressions = [f"expr_{name}" for name in EIGHT if name != "contempt" or "_7" not in model]
    dimensions = ["valence", "arousal"] if model.endswith("_mtl") else []
    return described.Description(
        name=model,
        publisher="A. V. Savchenko and others, github.com/sb-ai-lab/EmotiEffLib",
        licence="Apache-2.0",
        intended_use="expressions of single faces; trained on VGGFace2 and AffectNet, which are for research",
        input=described.Input(size=file.size, **file.scale),
        outputs={output: described.Output(columns=(*expressions, *dimensions))},
    )
