from __future__ import annotations

import pytest
import torch

from train.models.tcn_transformer import TcnTransformer, TcnTransformerOptions

SMALL = TcnTransformerOptions(
    channels=(16, 12), kernel=3, dim=24, layers=2, heads=3, feedforward=32, hidden=8, dropout=0.2
)


@pytest.fixture
def model() -> TcnTransformer:
    torch.manual_seed(0)
    built = TcnTransformer(SMALL, 16, 5).eval()
    for parameter in built.tcn.parameters():  # their small initial values would hide a leak
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_masked_positions_changes_no_valid_output(model: TcnTransformer, training: bool) -> None:
    features, valid = torch.randn(3, 20, 16), torch.ones(3, 20, dtype=torch.bool)
    valid[0, 13:], valid[1, 5:9] = False, False
    other = torch.where(valid[..., None], features, 1000 * torch.randn(3, 20, 16))
    model.train(training)
    outputs = []
    for each in (features, other):
        torch.manual_seed(1)
        outputs.append(model(each, valid)[valid])
    torch.testing.assert_close(outputs[0], outputs[1])


def test_padding_a_short_window_changes_nothing(model: TcnTransformer) -> None:
    features = torch.randn(1, 12, 16)
    padded = torch.nn.functional.pad(features, (0, 0, 0, 8))
    valid = torch.arange(20)[None] < 12
    with torch.inference_mode():
        short = model(features, torch.ones(1, 12, dtype=torch.bool))
        torch.testing.assert_close(model(padded, valid)[:, :12], short, atol=1e-5, rtol=1e-5)


def test_predictions_do_not_depend_on_the_other_windows_of_the_batch(model: TcnTransformer) -> None:
    features, valid = torch.randn(6, 20, 16), torch.rand(6, 20) < 0.8
    valid[:, 0] = True
    with torch.inference_mode():
        whole = model(features, valid)
        alone = torch.cat([model(f[None], v[None]) for f, v in zip(features, valid, strict=True)])
    torch.testing.assert_close(whole[valid], alone[valid], atol=1e-5, rtol=1e-5)


def test_the_tcn_sees_the_past_only_and_as_far_as_its_dilations_reach() -> None:
    torch.manual_seed(0)
    options = SMALL.model_copy(update={"channels": (16, 16, 16), "kernel": 5, "layers": 0})
    model = TcnTransformer(options, 16, 2).eval()
    features = torch.randn(1, 100, 16, requires_grad=True)
    model(features, torch.ones(1, 100, dtype=torch.bool))[0, 80].sum().backward()
    assert features.grad is not None
    touched = torch.nonzero(features.grad[0].abs().sum(1)).ravel()
    # two convolutions a block, each reaching (5 - 1) * 2^level back: 8 * (1 + 2 + 4) = 56
    assert (touched.min().item(), touched.max().item()) == (80 - 56, 80)


def test_the_default_sizes_are_those_of_the_authors_code() -> None:
    model = TcnTransformer(TcnTransformerOptions(), 768, 2)
    count = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert count["tcn"] == pytest.approx(7.7, abs=0.05)
    assert count["transformer"] == pytest.approx(12.6, abs=0.05)


@pytest.mark.parametrize("without", [{"channels": ()}, {"layers": 0}])
def test_either_half_can_be_left_out(without: dict[str, object]) -> None:
    model = TcnTransformer(SMALL.model_copy(update=without), 16, 8)
    assert model(torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)).shape == (2, 9, 8)
