"""The checkpoints of DFER-CLIP's authors: files of their layout give their model's logits, and nothing in them runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_clips
import pytest
import torch
from published_clips import FRAMES, SIDE, clip_features, image_features, logits, text_features
from torch import Tensor

from common.errors import UsageError
from train.models.published import dfer_clip
from train.models.scoring import load

SEVEN = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
ELEVEN = (*SEVEN, "contempt", "anxiety", "helplessness", "disappointment")


class RecorderMeter:
    """As in the authors' program: arrays that their curves are drawn of. This one tells when it is unpickled."""

    unpickled = 0

    def __init__(self) -> None:
        self.total_epoch, self.current_epoch = 50, 7
        self.epoch_losses = np.ones((50, 2), np.float32)
        self.epoch_accuracy = np.zeros((50, 2), np.float32)

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).unpickled += 1
        vars(self).update(state)


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> RecorderMeter:
    """A meter of a class of the program that saved it."""
    monkeypatch.setattr(RecorderMeter, "__module__", "__main__")
    monkeypatch.setattr(RecorderMeter, "unpickled", 0)
    monkeypatch.setattr(sys.modules["__main__"], "RecorderMeter", RecorderMeter, raising=False)
    return RecorderMeter()


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return published_clips.clip_tensors()


def texts(classes: tuple[str, ...]) -> list[str]:
    return [f"a {name} face, number {number} of {len(classes)}." for number, name in enumerate(classes)]


def context(*shape: int) -> Tensor:
    return 0.5 * torch.randn(*shape, published_clips.WIDTH, generator=torch.Generator().manual_seed(2))


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tensors: dict[str, Tensor], meter: RecorderMeter) -> Writer:
    def written(classes: tuple[str, ...], own: Tensor, depth: int = 1, **changes: Any) -> Path:
        content = published_clips.checkpoint(tensors, texts(classes), own, depth) | {"recorder": meter} | changes
        torch.save(content, tmp_path / "model_best.pth")
        return tmp_path / "model_best.pth"

    return written


@pytest.mark.parametrize(
    ("classes", "own", "depth"),
    [(SEVEN, context(7, 8), 1), (ELEVEN, context(4), 2)],
    ids=["7 classes as in its scripts", "11 classes with shared context"],
)
def test_an_imported_checkpoint_gives_the_logits_of_its_model_and_its_meter_is_not_run(
    classes: tuple[str, ...], own: Tensor, depth: int, write: Writer, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    file = write(classes, own, depth)
    bundle = dfer_clip.published(file).write(tmp_path / "bundle")
    assert RecorderMeter.unpickled == 0
    assert bundle.manifest.heads["expr"].outputs == classes

    crops = np.random.default_rng(0).integers(0, 256, (2 * FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    model = load(bundle)
    features = model.encode(crops).reshape(2, FRAMES, -1)
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255  # neither mean nor standard deviation
    frames = image_features(tensors, pictures).reshape(2, FRAMES, -1)
    np.testing.assert_allclose(features, frames, atol=1e-5)
    vectors, ends = published_clips.prompts(tensors["token_embedding.weight"], texts(classes), own, "front")
    clips = clip_features(tensors | published_clips.temporal_tensors(depth), frames, depth)
    expected = logits(clips, text_features(tensors, vectors, ends))
    assert expected.std() > 1
    head = model.heads["expr"].network
    found = head(torch.from_numpy(features), torch.ones(2, FRAMES, dtype=torch.bool))
    torch.testing.assert_close(0.01 * found[:, 0], 0.01 * expected, atol=1e-6, rtol=1e-5)
    predicted = model.predict(["expr"], features, np.ones((2, FRAMES), bool))["expr"]
    np.testing.assert_allclose(predicted[:, 5], expected.softmax(-1), atol=1e-4)

    torch.load(file, weights_only=False)
    assert RecorderMeter.unpickled == 1  # the meter can tell


def test_the_bundle_says_what_it_was_trained_on_and_with_which_texts(write: Writer, tmp_path: Path) -> None:
    file = write(SEVEN, context(7, 8))
    manifest = dfer_clip.published(file, "ferv39k", seconds=2).write(tmp_path / "bundle").manifest
    head = manifest.heads["expr"]
    assert (manifest.name, head.kind) == ("dfer_clip_ferv39k", "dfer_clip")
    assert head.options["windowing"] == {"fps": 8, "window": 16, "stride": 4, "gaps": "repeat"}
    assert head.options["prompts"]["descriptions"]["anger"] == "a anger face , number 3 of 7 ."
    assert (head.options["prompts"]["context"], head.options["prompts"]["specific"]) == (8, True)
    assert manifest.preprocess.mean is None
    assert "clips of about 2 s; trained on FERV39k" in manifest.intended_use
    assert (manifest.metrics["uar"], manifest.metrics["war"]) == (0.4127, 0.5165)
    assert dfer_clip.published(file).name == "dfer_clip_dfew"


def test_a_bundle_takes_no_part_of_the_text_tower_with_it(write: Writer, tmp_path: Path) -> None:
    bundle = dfer_clip.published(write(SEVEN, context(7, 8))).write(tmp_path / "bundle")
    names = set(bundle.tensors("expr.safetensors"))
    assert {name for name in names if not name.startswith("temporal.")} == {"classifier.texts"}


class Stranger:
    """Of a class that no checkpoint of the authors has."""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recorder": Stranger()}, r"it holds objects beside its tensors \(.*Stranger\), and nothing is unpickled"),
        ({"state_dict": {"module.fc.weight": torch.ones(3)}}, r"it lacks prompt_learner\.token_prefix"),
    ],
)
def test_other_files_are_refused_in_a_sentence(write: Writer, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        dfer_clip.published(write(SEVEN, context(7, 8), **changes))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_lacks_a_tensor_or_is_of_another_dataset_is_refused(
    write: Writer, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="it has 7 classes, MAFW has 11"):
        dfer_clip.published(write(SEVEN, context(7, 8)), "mafw")
    with pytest.raises(UsageError, match="it has 3 classes, DFEW has 7, FERV39k has 7, MAFW has 11"):
        dfer_clip.published(write(SEVEN[:3], context(3, 8)))
    part = published_clips.checkpoint(tensors, texts(SEVEN), context(7, 8))["state_dict"]
    del part["module.image_encoder.ln_pre.weight"]
    with pytest.raises(UsageError, match=r"it lacks ln_pre\.weight$"):
        dfer_clip.published(write(SEVEN, context(7, 8), state_dict=part))
    with pytest.raises(UsageError, match=r"none\.pth cannot be read: No such file"):
        dfer_clip.published(tmp_path / "none.pth")
    with pytest.raises(UsageError, match=r"its SHA-256 is [0-9a-f]{64}, not 0{64}"):
        dfer_clip.published(write(SEVEN, context(7, 8)), sha256="0" * 64)
