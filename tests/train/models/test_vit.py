from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from train.losses import masked_patch_loss
from train.models import vit
from train.models.positions import position_table
from train.models.vit import Block, DecoderOptions, MaskedAutoencoder, Vit, VitOptions, patchify

SMALL = VitOptions(image=16, channels=1, patch=4, dim=32, depth=2, heads=4)
DECODER = DecoderOptions(dim=16, depth=1, heads=2)


def test_patches_are_squares_of_the_picture_row_by_row() -> None:
    images = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    patches = patchify(images, 4)
    for number, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        square = images[1, :, y : y + 4, x : x + 4].permute(1, 2, 0).reshape(-1)
        assert torch.equal(patches[1, number], square)


def test_every_place_has_its_own_position_and_neighbours_are_alike() -> None:
    table = position_table(32, 6)
    assert table.shape == (36, 32)
    distances = torch.cdist(table, table) + 100 * torch.eye(36)
    assert distances.min() > 0.1
    assert distances[7, 8] < distances[7, 10]
    # He et al. section A.1: the first half is of the column, the second of the row
    assert torch.equal(table[0, :16], table[6, :16])
    assert torch.equal(table[0, 16:], table[1, 16:])


def test_positions_are_neither_trained_nor_saved() -> None:
    model = MaskedAutoencoder(SMALL, DECODER)
    assert not [name for name, _ in model.named_parameters() if "positions" in name]
    assert not [name for name in model.state_dict() if "positions" in name]
    assert model.decoder_positions.abs().sum() > 0


def test_the_default_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = MaskedAutoencoder(VitOptions(), DecoderOptions())
    count = sum(p.numel() for p in model.parameters())
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert 85e6 < encoder < 86.5e6
    assert 25.5e6 < count - encoder < 26.5e6


def test_the_encoder_sees_the_quarter_of_the_patches_with_the_least_noise() -> None:
    model = MaskedAutoencoder(SMALL, DECODER)
    noise = torch.rand(5, 16)
    rebuilt, hidden = model(torch.randn(5, 1, 16, 16), noise)
    assert rebuilt.shape == (5, 16, 16)
    assert (hidden.sum(1) == 12).all()
    for row in range(5):
        assert noise[row][~hidden[row]].max() < noise[row][hidden[row]].min()


@pytest.mark.parametrize(("image", "ratio", "seen"), [(224, 0.75, 49), (224, 0.7, 58), (64, 0.9, 1)])
def test_the_number_of_patches_that_are_seen_is_rounded_down(image: int, ratio: float, seen: int) -> None:
    assert MaskedAutoencoder(SMALL.model_copy(update={"image": image, "patch": 16}), DECODER, ratio).kept == seen


def test_what_hidden_patches_show_does_not_change_the_predictions() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SMALL, DECODER).eval()
    images, noise = torch.randn(2, 1, 16, 16), torch.rand(2, 16)
    rebuilt, hidden = model(images, noise)
    covered = patchify(images, 4)
    covered[hidden] = 7.0
    grid = covered.reshape(2, 4, 4, 4, 4, 1).permute(0, 5, 1, 3, 2, 4).reshape(2, 1, 16, 16)
    again, _ = model(grid, noise)
    torch.testing.assert_close(rebuilt, again)
    # but what the others show does
    other, _ = model(images + 1, noise)
    assert (other - rebuilt).abs().max() > 1e-3


def test_each_hidden_patch_has_a_prediction_of_its_own() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SMALL, DECODER).eval()
    rebuilt, hidden = model(torch.randn(1, 1, 16, 16), torch.rand(1, 16))
    assert torch.pdist(rebuilt[0][hidden[0]]).min() > 1e-4


def test_the_gradient_reaches_everything_but_the_norm_that_pretraining_leaves_out() -> None:
    model = MaskedAutoencoder(SMALL, DECODER)
    images = torch.randn(3, 1, 16, 16)
    rebuilt, hidden = model(images, torch.rand(3, 16))
    masked_patch_loss(rebuilt, patchify(images, 4), hidden).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    assert still == {"encoder.norm.weight", "encoder.norm.bias"}


def test_features_do_not_depend_on_the_batch_or_on_the_kind_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Vit(SMALL).eval()
    images = torch.randn(9, 1, 16, 16)
    with torch.inference_mode():
        whole = model(images)
        alone = torch.cat([model(each) for each in images.split(1)])
        monkeypatch.setattr(vit, "_fused_is_faster", lambda x: True)
        fused = model(images)
    assert whole.shape == (9, 32)
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole, fused, atol=1e-5, rtol=0)


def test_the_bias_of_patches_begins_as_that_of_a_convolution() -> None:
    """.021 was measured in the authors' code: uniform within 1 / sqrt(16 * 16 * 3)."""
    torch.manual_seed(0)
    bias = Vit(VitOptions(depth=1)).patch_embed.bias
    assert bias.std().item() == pytest.approx(0.021, abs=0.001)
    assert bias.abs().max() <= 768**-0.5


def test_linear_weights_begin_as_in_the_paper() -> None:
    weight = Vit(VitOptions(image=16, patch=4, dim=64, depth=1, heads=2)).state_dict()["blocks.0.mlp.fc1.weight"]
    bound = math.sqrt(6 / (64 + 256))
    assert 0.98 * bound < float(weight.abs().max()) <= bound
    assert np.isclose(float(weight.std()), bound / math.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("wrong", [{"image": 65}, {"heads": 5}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        VitOptions(**{"image": 64, "patch": 8, "dim": 128, "heads": 4, **wrong})


def test_blocks_have_the_parameters_and_the_results_of_timm_s() -> None:
    from timm.models.vision_transformer import Block as Theirs

    torch.manual_seed(3)
    theirs = Theirs(32, 4, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).eval()
    torch.manual_seed(3)
    ours = Block(32, 4)
    for (name, mine), (their_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert torch.equal(mine, other)
    tokens = torch.randn(3, 17, 32)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-6, rtol=1e-6)


def test_trained_positions_are_saved_and_every_weight_is_trained_with_either_pool() -> None:
    images = torch.randn(3, 1, 16, 16)
    for pool in ("mean", "token"):
        model = Vit(VitOptions(**SMALL.model_dump() | {"positions": "trained", "pool": pool}))
        assert torch.equal(model.state_dict()["positions"], position_table(32, 4))
        model(images).square().sum().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_the_class_token_is_a_feature_of_its_own() -> None:
    model = Vit(VitOptions(**SMALL.model_dump() | {"pool": "token"})).eval()
    images = torch.randn(3, 1, 16, 16)
    tokens = model.tokens(patchify(images, 4))
    torch.testing.assert_close(model(images), model.norm(tokens)[:, 0])
