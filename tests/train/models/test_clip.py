"""CLIP's image tower: equal to open_clip's own on the same weights, from every layout in which they are published."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from bundles import make_bundle
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, resize_pos_embed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import UsageError
from common.lake.layout import Lake
from train import job, recipe
from train.models import initial
from train.models.clip import ClipOptions
from train.models.initial import InitialWeights
from train.models.linear import LinearOptions
from train.models.registry import check_kinds, import_networks
from train.models.scoring import load

SHAPE = {"image": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2, "projection": 16}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def published(quick_gelu: bool = True, image: int = 32) -> CLIP:
    """A small CLIP of open_clip, both towers, with random weights."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=image)
    text = CLIPTextCfg(context_length=5, vocab_size=20, width=16, heads=2, layers=1)
    model = CLIP(16, vision, text, quick_gelu=quick_gelu).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def as_openai(model: CLIP) -> CLIP:
    """With the entries that OpenAI's files have besides, and all weights in half precision."""
    for name, number in (("input_resolution", 32), ("context_length", 5), ("vocab_size", 20)):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(number))
    return model.half()


def started(file: Path, **options: Any) -> nn.Module:
    chosen = ClipOptions(**SHAPE | options)
    network = chosen.build()
    initial.load(network, chosen.adopt, InitialWeights(file=str(file)))
    return network.eval()


def pictures(side: int = 32) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def same(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], side: int = 32) -> None:
    assert one(pictures(side)).shape == (3, 16)
    torch.testing.assert_close(one(pictures(side)), other(pictures(side)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_what_open_clip_publishes_gives_the_features_of_encode_image(tmp_path: Path, quick_gelu: bool) -> None:
    theirs = published(quick_gelu)
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    ours = started(tmp_path / "open_clip_model.safetensors", quick_gelu=quick_gelu)
    same(ours, theirs.encode_image)
    other = started(tmp_path / "open_clip_model.safetensors", quick_gelu=not quick_gelu)
    assert (other(pictures()) - ours(pictures())).abs().max() > 1e-3


def test_a_checkpoint_of_open_clip_s_training_is_taken(tmp_path: Path) -> None:
    theirs = published()
    weights = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 32, "name": "small", "state_dict": weights}, tmp_path / "epoch_32.pt")
    same(started(tmp_path / "epoch_32.pt"), theirs.encode_image)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_archive_that_openai_publishes_is_taken(tmp_path: Path) -> None:
    theirs = as_openai(published())
    scripted = torch.jit.trace(theirs.float(), (pictures()[:1], torch.zeros(1, 5, dtype=torch.long)), check_trace=False)
    scripted.half().save(tmp_path / "ViT-B-16.pt")
    assert torch.jit.load(tmp_path / "ViT-B-16.pt").state_dict()["visual.conv1.weight"].dtype == torch.float16
    same(started(tmp_path / "ViT-B-16.pt"), theirs.float().encode_image)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(64, 64)).save(tmp_path / "damaged.pt")
    content = bytearray((tmp_path / "damaged.pt").read_bytes())
    content[8000] ^= 1  # in a tensor
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read: it is a damaged archive"):
        started(tmp_path / "damaged.pt")


def test_weights_in_half_precision_in_openai_s_names_are_taken(tmp_path: Path) -> None:
    theirs = as_openai(published())
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    same(started(tmp_path / "clip.pt"), theirs.float().encode_image)
    with pytest.raises(UsageError, match=r"it is OpenAI's, .*: set encoder\.quick_gelu=true"):
        started(tmp_path / "clip.pt", quick_gelu=False)


class Writer(nn.Module):
    """A module whose archive has code that writes a file when `torch.jit.load` reads it."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.file = file

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.file, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.file, self.training = state
        self.weight = torch.from_file(self.file, shared=True, size=4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_the_code_in_an_archive_does_not_run(tmp_path: Path) -> None:
    written = tmp_path / "written"
    torch.jit.script(Writer(str(written))).save(tmp_path / "trap.pt")
    with pytest.raises(UsageError, match="cannot be read"):
        started(tmp_path / "trap.pt")
    assert not written.exists()
    torch.jit.load(tmp_path / "trap.pt")  # the trap does work
    assert written.exists()


def test_the_positions_of_another_size_of_picture_are_resampled_as_open_clip_does(tmp_path: Path) -> None:
    theirs, larger = published(), published(image=56)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    weights = dict(theirs.state_dict())
    resize_pos_embed(weights, larger)
    larger.load_state_dict(weights)
    same(started(tmp_path / "model.safetensors", image=56), larger.encode_image, side=56)


def test_what_mien_tuned_is_taken_as_it_is(tmp_path: Path) -> None:
    before = published().visual
    save_file(before.state_dict(), tmp_path / "finetune.safetensors")
    same(started(tmp_path / "finetune.safetensors"), before)


def test_weights_of_another_network_are_refused_with_the_first_names_that_differ(tmp_path: Path) -> None:
    save_file(published().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        UsageError, match=r"the encoder has no transformer\.resblocks\.1\.attn\.in_proj_bias, .* and 9 more$"
    ):
        started(tmp_path / "model.safetensors", depth=1)
    text = {name: tensor for name, tensor in published().state_dict().items() if not name.startswith("visual.")}
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(UsageError, match=r"it lacks class_embedding, proj, conv1\.weight and \d+ more; "):
        started(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT-B-16-quickgelu", {}),
        ("ViT-B-32-quickgelu", {"patch": 32}),
        ("ViT-L-14-quickgelu", {"patch": 14, "dim": 1024, "depth": 24, "heads": 16, "projection": 768}),
        ("ViT-B-16", {"quick_gelu": False}),
    ],
)
def test_the_published_sizes_are_those_of_open_clip(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        theirs = CLIP(**open_clip.get_model_config(name)).visual
        ours = ClipOptions(**options).build()
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert str(ours) == str(theirs)


def test_open_clip_is_imported_once_for_all_workers_of_a_bundle_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_bundle(tmp_path / "bundle", ClipOptions(**SHAPE), LinearOptions(), {"crop": [0, 0, 32], "size": 32}, 32)
    monkeypatch.delitem(sys.modules, "open_clip")
    check_kinds(made)
    assert "open_clip" not in sys.modules
    import_networks(made.manifest)
    assert "open_clip" in sys.modules


@pytest.mark.slow
def test_the_tower_is_tuned_whole_and_scores_from_a_bundle_whatever_is_in_the_batch(
    toy_lake: Path, toy_recipe: str, tmp_path: Path
) -> None:
    save_file(published().state_dict(), tmp_path / "model.safetensors")
    changes = (
        "mae=null",
        f"init={tmp_path / 'model.safetensors'}",
        "encoder={kind: clip, image: 32, patch: 8, dim: 32, depth: 2, heads: 2, projection: 16}",
        f"preprocess={{crop: [0, 0, 32], size: 32, mean: {list(MEAN)}, std: {list(STD)}}}",
        "finetune={steps: 2, batch: 16, lr: 1.0e-3}",
        "heads={all: {tasks: [expr], steps: 1, batch: 16, lr: 1.0e-3, model: {kind: linear}}}",
    )
    made = job.run(recipe.load(toy_recipe, changes), Lake(str(toy_lake)), tmp_path / "bundle")
    before, tuned = published().visual, load_file(made.path / "encoder.safetensors")
    assert not [name for name, tensor in before.state_dict().items() if torch.equal(tensor, tuned[name])]
    before.load_state_dict(tuned)

    crops = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    with torch.inference_mode():
        scaled = (crops / 255 - np.array(MEAN)) / np.array(STD)
        wanted = before(torch.from_numpy(scaled).permute(0, 3, 1, 2).float())
    model = load(made)
    np.testing.assert_allclose(model.encode(crops), wanted, atol=1e-4, rtol=0)
    alone = np.concatenate([model.encode(crops[n : n + 1]) for n in range(9)])
    np.testing.assert_allclose(alone, wanted, atol=1e-4, rtol=0)
