"""Starting weights: each published layout gives what an independent implementation gives with the same weights."""

from __future__ import annotations

import argparse
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block, PatchEmbed, VisionTransformer
from torch import Tensor, nn

from common.errors import MienError, UsageError
from common.lake.layout import Lake
from train import job, recipe
from train.models import initial
from train.models.initial import InitialWeights
from train.models.vit import Vit, VitOptions
from train.objectives import MaePretrain
from train.validation import Kept

SHAPE = {"image": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4}
LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


def sine_cosine(dim: int, grid: int) -> np.ndarray:
    """Position table of MAE's paper, with a row of zeros for the class token, number by number."""
    table = np.zeros((1 + grid * grid, dim))
    for row in range(grid):
        for column in range(grid):
            for k in range(dim // 4):
                rate = 10000.0 ** (-k / (dim // 4))
                angles = (np.sin(column * rate), np.cos(column * rate), np.sin(row * rate), np.cos(row * rate))
                table[1 + row * grid + column, k :: dim // 4] = angles
    return table


class PaperMae(nn.Module):
    """MAE's networks of He et al. 2021, of timm's blocks; its parameters have the published names."""

    def __init__(self, dim: int = 32, width: int = 16, grid: int = 4, patch: int = 8) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(grid * patch, patch, 3, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.tensor(sine_cosine(dim, grid)[None]).float(), requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, 4, qkv_bias=True, norm_layer=LAYER_NORM) for _ in range(2))
        self.norm = LAYER_NORM(dim)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.tensor(sine_cosine(width, grid)[None]).float(), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([Block(width, 2, qkv_bias=True, norm_layer=LAYER_NORM)])
        self.decoder_norm = LAYER_NORM(width)
        self.decoder_pred = nn.Linear(width, patch * patch * 3)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Rebuilt patches [B, L, P] and mask [B, L], 1 where hidden: three quarters, those with the most noise."""
        batch, patches = noise.shape
        shuffle = noise.argsort(dim=1)
        restore, kept = shuffle.argsort(dim=1), shuffle[:, : patches // 4]
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x = torch.stack([x[n, kept[n]] for n in range(batch)])
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.mask_token.expand(batch, patches - patches // 4, -1)], dim=1)
        tokens = torch.stack([tokens[n, restore[n]] for n in range(batch)])
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:], (restore >= patches // 4).float()

    def loss(self, images: Tensor, noise: Tensor, norm_pix: bool, over_all: bool) -> Tensor:
        batch, channels, *_ = images.shape
        patch = self.patch_embed.patch_size[0]
        target = images.unfold(2, patch, patch).unfold(3, patch, patch)  # [B, C, rows, columns, p, p]
        target = target.permute(0, 2, 3, 4, 5, 1).reshape(batch, -1, patch * patch * channels)
        if norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        rebuilt, mask = self(images, noise)
        error = (rebuilt - target).square().mean(-1)
        return error.mean() if over_all else (error * mask).sum() / mask.sum()

    def encoder(self) -> dict[str, Tensor]:
        """What the authors publish: the encoder's weights alone."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(("decoder", "mask"))}


def shaken(network: nn.Module, seed: int = 0) -> Any:
    """The network with random values in all that is trained: biases and norms must not hide behind zeros and ones."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def of_timm(pool: str = "token", image: int = 32) -> VisionTransformer:
    return shaken(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=image, patch_size=8, embed_dim=32, depth=2, num_heads=4, global_pool=pool
        )
    )


def started(file: Path | str, sha256: str | None = None, **options: Any) -> Vit:
    chosen = VitOptions(**SHAPE | options)
    network = chosen.build()
    initial.load(network, chosen.adopt, InitialWeights(file=str(file), sha256=sha256))
    return network.eval()


def pictures(side: int = 32) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def same(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], side: int = 32) -> None:
    torch.testing.assert_close(one(pictures(side)), other(pictures(side)), atol=1e-4, rtol=0)


# --- layouts of Vision Transformers


def test_a_pretrained_mae_is_taken_with_a_norm_that_starts_anew(tmp_path: Path) -> None:
    mae = shaken(PaperMae())
    torch.save({"model": mae.encoder()}, tmp_path / "mae_pretrain_vit_base.pth")

    def features(images: Tensor) -> Tensor:
        x = torch.cat([mae.cls_token.expand(3, -1, -1), mae.patch_embed(images)], dim=1) + mae.pos_embed
        tokens = mae.blocks[1](mae.blocks[0](x))
        return nn.functional.layer_norm(tokens[:, 1:].mean(1), (32,), eps=1e-6)

    same(started(tmp_path / "mae_pretrain_vit_base.pth"), features)


def test_a_checkpoint_with_the_decoder_and_the_options_of_mae_s_program_is_taken(tmp_path: Path) -> None:
    mae = shaken(PaperMae())
    whole = {"model": mae.state_dict(), "epoch": 799, "args": argparse.Namespace(mask_ratio=0.75)}
    torch.save(whole, tmp_path / "checkpoint-799.pth")
    torch.save({"model": mae.encoder()}, tmp_path / "encoder.pth")
    same(started(tmp_path / "checkpoint-799.pth"), started(tmp_path / "encoder.pth"))


@pytest.mark.parametrize("name", ["mae_finetuned_vit_base.pth", "mae_face_finetuned.pth"])
def test_a_fine_tuned_mae_is_taken_with_its_norm_and_its_trained_positions(tmp_path: Path, name: str) -> None:
    theirs = of_timm("avg")
    assert "fc_norm.weight" in theirs.state_dict()
    torch.save({"model": theirs.state_dict()}, tmp_path / name)
    same(started(tmp_path / name, positions="trained"), lambda x: theirs.forward_head(theirs.forward_features(x), True))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_timm_are_taken_with_the_class_token_as_the_feature(tmp_path: Path, suffix: str) -> None:
    theirs = of_timm()
    file = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs.state_dict(), file)
    same(
        started(file, positions="trained", pool="token"),
        lambda x: theirs.forward_head(theirs.forward_features(x), True),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"dim": 192, "heads": 3}),
        ("vit_small_patch32_224", {"dim": 384, "heads": 6, "patch": 32}),
        ("vit_base_patch16_384", {"image": 384}),
        ("vit_large_patch14_224", {"dim": 1024, "depth": 24, "heads": 16, "patch": 14}),
        ("vit_huge_patch14_224", {"dim": 1280, "depth": 32, "heads": 16, "patch": 14}),
    ],
)
def test_every_size_of_timm_s_plain_transformers_fits_with_its_sizes_as_keys(
    name: str, options: dict[str, int]
) -> None:
    chosen = VitOptions(**options, positions="trained", pool="token")
    with torch.device("meta"):
        theirs = chosen.adopt(timm.create_model(name).state_dict())
        ours = chosen.build().state_dict()
    assert {name: tensor.shape for name, tensor in theirs.items()} == {n: tensor.shape for n, tensor in ours.items()}


def test_the_positions_of_another_size_of_picture_are_resampled_as_timm_does(tmp_path: Path) -> None:
    theirs = of_timm()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    larger = of_timm(image=56)
    larger.load_state_dict(
        theirs.state_dict()
        | {"pos_embed": timm.layers.resample_abs_pos_embed(theirs.pos_embed.detach(), [7, 7], num_prefix_tokens=1)}
    )
    ours = started(tmp_path / "model.safetensors", positions="trained", pool="token", image=56)
    same(ours, lambda x: larger.forward_head(larger.forward_features(x), True), side=56)


@pytest.mark.parametrize("options", [{}, {"image": 56}])
def test_positions_that_the_encoder_would_not_have_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    trained = of_timm().state_dict() if not options else shaken(PaperMae()).encoder()
    torch.save(trained, tmp_path / "model.pth")
    with pytest.raises(UsageError, match=r"its positions are not the fixed .*: set encoder\.positions=trained"):
        started(tmp_path / "model.pth", **options)


def test_what_mien_trained_is_taken_as_it_is_and_trained_positions_may_begin_as_fixed_ones(tmp_path: Path) -> None:
    before = shaken(Vit(VitOptions(**SHAPE)))
    save_file(before.state_dict(), tmp_path / "mae.safetensors")
    same(started(tmp_path / "mae.safetensors"), before)
    tuned = started(tmp_path / "mae.safetensors", positions="trained")
    same(tuned, before)
    tuned.positions.data += 0.1
    save_file(tuned.state_dict(), tmp_path / "finetune.safetensors")
    same(started(tmp_path / "finetune.safetensors", positions="trained"), tuned)


# --- going on with pretraining

MAE_RECIPE = (
    "encoder={kind: vit, image: 32, patch: 8, dim: 32, depth: 2, heads: 4}",
    "preprocess={crop: [0, 0, 32], size: 32, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
    "mae.decoder={dim: 16, depth: 1, heads: 2}",
)


def objective(toy_recipe: str, file: Path, *changes: str) -> MaePretrain:
    chosen = recipe.load(toy_recipe, (*MAE_RECIPE, *changes))
    made = MaePretrain(chosen)
    initial.load(made.model, made.model.adopt, InitialWeights(file=str(file)), "mae.init")
    return made


@pytest.mark.parametrize(("norm_pix", "over"), [(False, "hidden"), (True, "hidden"), (False, "all"), (True, "all")])
def test_pretraining_goes_on_with_the_loss_that_mae_s_paper_has_for_these_weights(
    toy_recipe: str, tmp_path: Path, norm_pix: bool, over: str
) -> None:
    mae = shaken(PaperMae())
    torch.save({"model": mae.state_dict()}, tmp_path / "mae_pretrain_vit_base_full.pth")
    ours = objective(
        toy_recipe, tmp_path / "mae_pretrain_vit_base_full.pth", f"mae.norm_pix={norm_pix}", f"mae.loss={over}"
    )
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = (images / 255 - mean[:, None, None]) / std[:, None, None]
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        rebuilt, hidden = ours.model(theirs, noise)
        torch.testing.assert_close(rebuilt, mae(theirs, noise)[0], atol=1e-4, rtol=0)
        assert torch.equal(hidden.float(), mae(theirs, noise)[1])
        torch.manual_seed(3)  # the objective draws its noise itself
        loss = ours({"images": images})
        torch.testing.assert_close(loss, mae.loss(theirs, noise, norm_pix, over == "all"), atol=1e-4, rtol=1e-4)


def test_pretraining_goes_on_from_an_encoder_alone_with_a_decoder_that_starts_anew(
    toy_recipe: str, tmp_path: Path
) -> None:
    mae = shaken(PaperMae())
    torch.save({"model": mae.encoder()}, tmp_path / "mae.pth")
    ours = objective(toy_recipe, tmp_path / "mae.pth").model
    assert torch.equal(ours.encoder_norm.weight, mae.norm.weight)
    assert torch.equal(ours.encoder.blocks[1].mlp.fc1.weight, mae.blocks[1].mlp.fc1.weight)
    assert torch.equal(ours.decoder_norm.weight, torch.ones(16))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("encoder.depth=3", r"it lacks encoder\.blocks\.2\.norm1\.weight, .* and 9 more$"),
        ("mae.decoder.depth=2", r"it lacks decoder_blocks\.1\.norm1\.weight, .* and 9 more$"),
        ("encoder.patch=16", r"its positions are not"),
    ],
)
def test_an_autoencoder_of_another_shape_is_refused(
    toy_recipe: str, tmp_path: Path, change: str, sentence: str
) -> None:
    torch.save({"model": PaperMae().state_dict()}, tmp_path / "full.pth")
    with pytest.raises(UsageError, match=rf"^mae\.init: the weights \S+ do not fit the recipe's encoder: {sentence}"):
        objective(toy_recipe, tmp_path / "full.pth", change)


def test_a_run_goes_on_from_the_weights_of_mae_init_and_says_which_they_were(
    toy_lake: Path, toy_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mae, file = shaken(PaperMae()), tmp_path / "full.pth"
    torch.save({"model": mae.state_dict()}, file)
    stages: list[str] = []
    monkeypatch.setattr("train.loop.fit", lambda name, *rest: stages.append(name) or Kept(0))
    chosen = recipe.load(toy_recipe, (*MAE_RECIPE, f"mae.init={file}"))
    made = job.run(chosen, Lake(str(toy_lake)), tmp_path / "bundle")
    assert stages[:2] == ["mae", "finetune"]
    assert made.manifest.data["init_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    encoder = load_file(made.path / "encoder.safetensors")
    assert torch.equal(encoder["blocks.1.attn.qkv.weight"], mae.blocks[1].attn.qkv.weight)


# --- files that do not fit, and files that are no weights


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 1}, r"the encoder has no blocks\.1\.norm1\.weight, blocks\.1\.norm1\.bias, \S+ and 9 more$"),
        ({"depth": 3}, r"it lacks blocks\.2\.norm1\.weight, blocks\.2\.norm1\.bias, \S+ and 9 more$"),
        ({"channels": 1}, r"of another shape: patch_embed\.weight \(\(32, 192\), not \(32, 64\)\)$"),
        ({"dim": 64}, r"of another shape: cls_token \(\(32,\), not \(64,\)\), "),
    ],
)
def test_weights_of_another_shape_are_refused_with_the_first_names_that_differ(
    tmp_path: Path, options: dict[str, int], sentence: str
) -> None:
    torch.save({"model": PaperMae().encoder()}, tmp_path / "mae.pth")
    with pytest.raises(
        UsageError, match=rf"^init: the weights \S+mae\.pth do not fit the recipe's encoder: .*{sentence}"
    ):
        started(tmp_path / "mae.pth", **options)


def test_weights_of_another_kind_of_network_are_refused_with_the_names_of_both(tmp_path: Path) -> None:
    save_file(nn.Linear(3, 4).state_dict(), tmp_path / "linear.safetensors")
    with pytest.raises(UsageError, match=r"it lacks cls_token, .* and 26 more; the encoder has no \w+, \w+$"):
        started(tmp_path / "linear.safetensors")


@pytest.mark.parametrize("name", ["cls_token", "pos_embed", "patch_embed.proj.weight"])
def test_published_names_with_shapes_of_their_own_are_refused(tmp_path: Path, name: str) -> None:
    torch.save(PaperMae().encoder() | {name: torch.ones(5)}, tmp_path / "odd.pth")
    with pytest.raises(UsageError, match=r"odd\.pth do not fit the recipe's encoder: ") as refused:
        started(tmp_path / "odd.pth")
    assert "\n" not in str(refused.value)


class Trap:
    """What an attacker puts into a file: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path, zipped: bool) -> None:
    whole = {"model": PaperMae().encoder(), "args": Trap(tmp_path / "sprung")}
    torch.save(whole, tmp_path / "trap.pth", _use_new_zipfile_serialization=zipped)
    sentence = (
        r"holds objects beside its tensors \(posix\.mkdir\), .* as safetensors"
        if zipped
        else "holds objects beside its tensors, and nothing is unpickled"
    )
    with pytest.raises(UsageError, match=sentence) as refused:
        started(tmp_path / "trap.pth")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.pth", weights_only=False)  # the trap does work
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.pth", None, "No such file"),
        ("text.pth", b"hello, I am no weights", "it is damaged, of another format"),
        ("empty.pth", b"", "it is damaged, of another format"),
        ("text.safetensors", b"hello, I am no weights", "it is no file of safetensors"),
        ("list.pth", [1, 2], "it holds no weights by name"),
        ("numbered.pth", {0: torch.ones(2)}, "it holds no weights by name"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(UsageError, match=rf"^init: the weights \S+{name} cannot be read: .*{sentence}") as refused:
        started(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_file_of_another_sha256_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(Vit(VitOptions(**SHAPE)).state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    started(file, sha256=digest)
    with pytest.raises(UsageError, match=f"not the file that init.sha256 names: its SHA-256 is {digest}"):
        started(file, sha256="0" * 64)


# --- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A server that answers as the Hugging Face hub does: the files of owner/model by name."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            content = files.get(self.path.removeprefix("/owner/model/resolve/main/"))
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_body and content:
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield files
    server.shutdown()
    server.server_close()


def test_weights_come_from_the_hub_and_without_it_from_its_cache(
    hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shaken(Vit(VitOptions(**SHAPE)))
    save_file(before.state_dict(), tmp_path / "served")
    content = (tmp_path / "served").read_bytes()
    hub |= {"model.safetensors": content, "deep/other.safetensors": content}
    same(started("hub:owner/model"), before)
    same(started("hub:owner/model/deep/other.safetensors"), before)
    with pytest.raises(
        MienError, match=r"none\.safetensors of owner/model could not be fetched .*: check the name"
    ) as why:
        started("hub:owner/model/none.safetensors")
    assert "\n" not in str(why.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.clear()
    same(started("hub:owner/model"), before)
    with pytest.raises(MienError, match="could not be fetched"):
        started("hub:owner/model/none.safetensors")
