"""Imports the checkpoints of DFER-CLIP (Zhao & Patras 2023), as the program of its authors saved them.

They hold both towers of CLIP twice, the optimiser's state, and a meter object, which is skipped and not run. The text
features are computed here, once. The prompts' tokens are not saved, but their vectors are: each is found again in
CLIP's table of vectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from common.bundle.manifest import HeadPart, Origin, Part, Preprocess
from common.crops import Crop
from common.errors import UsageError
from train.models import initial, stored
from train.models.clip import ClipOptions
from train.models.dfer_clip import ClipHead, ClipWindowing, DferClipOptions, FixedTexts
from train.models.options import part
from train.models.prompts import PromptOptions
from train.models.published.published import Networks, Published, digest
from train.models.text_tower import LENGTH, TextOptions

SEVEN = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
ELEVEN = (*SEVEN, "contempt", "anxiety", "helplessness", "disappointment")
PAPER = "arXiv:2308.13382"

METER = frozenset(
    {
        "__main__.RecorderMeter",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
    }
)
"""The meter that the authors' program saves beside the weights, and the arrays in it."""


@dataclass(frozen=True)
class Dataset:
    """What a checkpoint was trained on: its classes in order, how long its clips are, and what the paper reports.

    seconds: an estimate from the beginning of the authors' test lists, which count frames, at an assumed 24 (DFEW) or
    25 frames/s.
    """

    title: str
    classes: tuple[str, ...]
    seconds: float
    folds: int
    uar: float
    war: float


DATASETS = {
    "dfew": Dataset("DFEW", SEVEN, 2.8, 5, 0.5961, 0.7125),
    "ferv39k": Dataset("FERV39k", SEVEN, 1.1, 1, 0.4127, 0.5165),
    "mafw": Dataset("MAFW", ELEVEN, 2.9, 5, 0.3989, 0.5255),
}

_TEMPORAL = {
    r"cls_token": "token",
    r"pos_embedding": "positions",
    r"temporal_transformer\.layers\.(\d+)\.0\.fn\.norm\.": r"blocks.\1.norm1.",
    r"temporal_transformer\.layers\.(\d+)\.0\.fn\.fn\.to_qkv\.": r"blocks.\1.qkv.",
    r"temporal_transformer\.layers\.(\d+)\.0\.fn\.fn\.to_out\.0\.": r"blocks.\1.out.",
    r"temporal_transformer\.layers\.(\d+)\.1\.fn\.norm\.": r"blocks.\1.norm2.",
    r"temporal_transformer\.layers\.(\d+)\.1\.fn\.fn\.net\.0\.": r"blocks.\1.fc1.",
    r"temporal_transformer\.layers\.(\d+)\.1\.fn\.fn\.net\.3\.": r"blocks.\1.fc2.",
}
"""Names of the temporal model's tensors, published and ours."""


def published(
    file: Path, dataset: str | None = None, seconds: float | None = None, sha256: str | None = None
) -> Published:
    """The bundle of a checkpoint. Raises UsageError for a file that cannot be read or is no such checkpoint.

    `dataset`: of `DATASETS`; the first with as many classes as the checkpoint unless given. `seconds`: how long the
    clips were that it was trained on; about what the dataset's are unless given.
    """
    found = digest(file, sha256, "the file that --sha256 names")
    try:
        tensors = stored.read(file, METER)
        classes = len(_one(tensors, "prompt_learner.token_prefix"))
        chosen = _dataset(classes, dataset)
        encoder, weights = _encoder(_below(tensors, "image_encoder."))
        seconds = seconds or chosen.seconds
        options, head = _head(tensors, chosen, seconds)
    except (ValueError, RuntimeError, IndexError) as error:  # the last two: of shapes that no layer has
        problem = str(error).splitlines()[0]
        raise UsageError(f"{file} is no checkpoint of DFER-CLIP that can be imported: {problem}") from None
    return Published(
        name=f"dfer_clip_{chosen.title.lower()}",
        networks=Networks(
            Part(**part(encoder, "encoder")),
            {"expr": HeadPart(**part(options, "expr"), outputs=chosen.classes)},
            {"encoder.safetensors": save(weights), "expr.safetensors": save(head)},
        ),
        # The authors scale pixels to [0, 1] and leave CLIP's mean and standard deviation out.
        preprocess=Preprocess(crop=(0, 0, encoder.image), size=encoder.image),
        crop=Crop(size=encoder.image),
        origin=Origin(
            publisher="Zengqun Zhao and Ioannis Patras, github.com/zengqunzhao/DFER-CLIP", file=file.name, sha256=found
        ),
        licence="MIT",
        intended_use=f"expressions of faces in clips of about {seconds:g} s; trained on {chosen.title}, for research",
        metrics={
            "uar": chosen.uar,
            "war": chosen.war,
            "of": f"{chosen.title}, mean over {chosen.folds} folds" if chosen.folds > 1 else chosen.title,
            "as published in": PAPER,
        },
    )


def _dataset(classes: int, name: str | None) -> Dataset:
    fits = {key: dataset for key, dataset in DATASETS.items() if len(dataset.classes) == classes}
    if name is None and fits:
        return next(iter(fits.values()))
    if name not in fits:
        wanted = [DATASETS[name]] if name else list(DATASETS.values())
        have = ", ".join(f"{dataset.title} has {len(dataset.classes)}" for dataset in wanted)
        raise ValueError(f"it has {classes} classes, {have}")
    return fits[name]


def _encoder(tensors: dict[str, Tensor]) -> tuple[ClipOptions, dict[str, Tensor]]:
    """The options of the image tower, told by the shapes of its tensors, and these."""
    convolution, positions = _one(tensors, "conv1.weight"), _one(tensors, "positional_embedding")
    patch = convolution.shape[-1]
    options = ClipOptions(
        image=patch * round((len(positions) - 1) ** 0.5),
        patch=patch,
        dim=len(convolution),
        depth=_blocks(tensors, "transformer.resblocks"),
        heads=max(1, len(convolution) // 64),  # as in all of OpenAI's
        projection=_one(tensors, "proj").shape[1],
    )
    return options, _fitted(options.build(), tensors)


def _head(tensors: dict[str, Tensor], dataset: Dataset, seconds: float) -> tuple[DferClipOptions, dict[str, Tensor]]:
    temporal = {_renamed(name): tensor for name, tensor in _below(tensors, "temporal_net.").items()}
    depth = _blocks(temporal, "blocks")
    temporal["positions"] = _one(temporal, "positions").flatten(0, -2)
    temporal["token"] = _one(temporal, "token").flatten()
    frames, features = len(temporal["positions"]) - 1, len(temporal["token"])
    text, prompts, texts = _texts(tensors, dataset.classes)
    usual = DferClipOptions()
    options = DferClipOptions(
        windowing=ClipWindowing(fps=frames / seconds, window=frames, stride=max(1, frames // 4)),
        depth=depth,
        dim_head=len(_one(temporal, "blocks.0.qkv.weight")) // (3 * usual.heads),
        mlp=len(_one(temporal, "blocks.0.fc1.weight")),
        prompts=prompts,
        text=text,
    )
    network = ClipHead(options.temporal(features), FixedTexts(texts, options.temperature))
    named = {f"temporal.{name}": tensor for name, tensor in temporal.items()} | {"classifier.texts": texts}
    return options, _fitted(network, named)


def _renamed(name: str) -> str:
    for theirs, ours in _TEMPORAL.items():
        renamed, count = re.subn(f"^{theirs}", ours, name)
        if count:
            return renamed
    return name


@torch.no_grad()
def _texts(tensors: dict[str, Tensor], classes: tuple[str, ...]) -> tuple[TextOptions, PromptOptions, Tensor]:
    """The text tower's options, the prompts', and the text features [K, D]."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    tower, _ = TextOptions().adopt(_below(tensors, "text_encoder."))
    projection = _one(tower, "text_projection")
    width, features = projection.shape
    text = TextOptions(width=width, depth=_blocks(tower, "transformer.resblocks"), heads=max(1, width // 64))
    network = text.build(features)
    network.load_state_dict(_fitted(network, tower))

    start, context, rest = (_one(tensors, f"prompt_learner.{name}") for name in ("token_prefix", "ctx", "token_suffix"))
    specific = context.ndim == 3
    shared = context if specific else context.expand(len(start), -1, -1)
    vectors = torch.cat([start, shared, rest], dim=1)
    if vectors.shape[1] != LENGTH:
        raise ValueError(f"its prompts have {vectors.shape[1]} tokens, not {LENGTH}")
    table = _one(tensors, "clip_model_.token_embedding.weight")
    said = [_said(each, table) for each in rest]
    ends = torch.tensor([1 + shared.shape[1] + len(tokens) for tokens in said])
    prompts = PromptOptions(
        descriptions={name: tokenizer.decode(each).strip() for name, each in zip(classes, said, strict=True)},
        context=shared.shape[1],
        specific=specific,
    )
    return text, prompts, nn.functional.normalize(network(vectors, ends), dim=-1)


def _said(vectors: Tensor, table: Tensor) -> list[int]:
    """The tokens whose vectors stand before the first of the token that ends a prompt, which is the table's last."""
    tokens: list[int] = []
    for vector in vectors:
        alike = (table[:, 0] == vector[0]).nonzero().flatten()
        found = [token for token in alike.tolist() if torch.equal(table[token], vector)]
        if not found:
            break
        if found[-1] == len(table) - 1:
            return tokens
        tokens.append(found[0])
    raise ValueError("the vectors of its prompts are not those of its tokens")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _one(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"it lacks {name}")
    return tensors[name].float()


def _blocks(tensors: Mapping[str, Any], prefix: str) -> int:
    """How many blocks there are below a prefix."""
    numbers = {name.removeprefix(f"{prefix}.").partition(".")[0] for name in tensors if name.startswith(f"{prefix}.")}
    if not numbers:
        raise ValueError(f"it lacks {prefix}")
    return len(numbers)


def _fitted(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors in float32, each with memory of its own. Raises ValueError unless these are all of it."""
    initial.check(network.state_dict(), tensors, "this part of the model")
    network.load_state_dict(dict(tensors))
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in network.state_dict().items()}
