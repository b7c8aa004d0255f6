from __future__ import annotations

import pytest
import torch

from train.models.tcn_transformer import TcnTransformer, TcnTransformerOptions, WeightNormConv1d

SMALL = TcnTransformerOptions(
    channels=(16, 12), kernel=3, dim=24, layers=2, heads=3, feedforward=32, hidden=8, dropout=0.2
)


PUBLISHED = SMALL.model_copy(update={"weight_norm": True, "norm": "batch"})


@pytest.fixture(params=[SMALL, PUBLISHED], ids=["layer norm", "weight and batch norm"])
def model(request: pytest.FixtureRequest) -> TcnTransformer:
    torch.manual_seed(0)
    built = TcnTransformer(request.param, 16, 5).eval()
    for parameter in built.tcn.parameters():  # their small initial values would hide a leak
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.parametrize("training", [False, True])
def test_values_at_masked_positions_change_no_valid_output(model: TcnTransformer, training: bool) -> None:
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


def test_it_computes_what_the_published_layers_of_torch_do_with_the_same_weights() -> None:
    """Built from torch's own weight norm, TransformerEncoder and BatchNorm1d, as the authors' code is."""
    torch.manual_seed(0)
    model = TcnTransformer(PUBLISHED.model_copy(update={"dropout": 0.0}), 16, 5)
    for length in (block.conv1.length for block in model.tcn):
        torch.nn.init.uniform_(length, 0.5, 2.0)
    features = torch.randn(4, 20, 16)

    def conv(ours: WeightNormConv1d, x: torch.Tensor, pad: int) -> torch.Tensor:
        theirs = torch.nn.utils.parametrizations.weight_norm(
            torch.nn.Conv1d(ours.in_channels, ours.out_channels, ours.kernel_size, dilation=ours.dilation)
        )
        theirs.load_state_dict(
            {
                "bias": ours.bias,
                "parametrizations.weight.original0": ours.length,
                "parametrizations.weight.original1": ours.weight,
            }
        )
        return theirs(torch.nn.functional.pad(x, (pad, 0)))

    x = features.transpose(1, 2)
    for block in model.tcn:
        y = block.act1(conv(block.conv1, x, block.pad))
        y = block.act2(conv(block.conv2, y, block.pad))
        x = block.act(y + block.residual(x))
    x = model.bridge(x.transpose(1, 2))
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(24, 3, 32, 0.0, batch_first=True), 2, enable_nested_tensor=False
    )
    encoder.load_state_dict({f"layers.{key}": value for key, value in model.transformer.state_dict().items()})
    x = model.head[0](encoder(x)).flatten(0, 1)
    expected = model.head[2](torch.nn.BatchNorm1d(8)(x)).view(4, 20, 5)

    found = model(features, torch.ones(4, 20, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_batch_norm_counts_valid_frames_alone() -> None:
    torch.manual_seed(0)
    model = TcnTransformer(PUBLISHED, 16, 5).train()
    valid = torch.arange(20)[None] < torch.tensor([[20], [7]])
    model(torch.randn(2, 20, 16), valid)
    (norm,) = (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    hidden: list[torch.Tensor] = []
    model.head[0].register_forward_hook(lambda *given: hidden.append(given[2]))
    norm.reset_running_stats()
    norm.momentum = 1.0  # the running mean is then that of the last batch
    torch.manual_seed(1)
    model(torch.randn(2, 20, 16), valid)
    torch.testing.assert_close(norm.running_mean, hidden[0][valid].mean(0).detach())


def test_initial_values_are_those_of_the_authors_code() -> None:
    """Standard deviations as measured in that code: its weight norm undoes N(0, 0.01) in all but the residuals."""
    torch.manual_seed(0)
    for weight_norm in (False, True):
        model = TcnTransformer(TcnTransformerOptions(weight_norm=weight_norm), 768, 2)
        found = [conv.weight.std().item() for block in model.tcn for conv in (block.conv1, block.conv2)]
        assert found == pytest.approx([0.0093, 0.0093, 0.0093, 0.0161, 0.0162, 0.0229], rel=0.02)
        assert [b.residual.weight.std().item() for b in list(model.tcn)[1:]] == pytest.approx([0.01, 0.01], rel=0.03)
        first, *others = (layer.state_dict() for layer in model.transformer)
        assert all(torch.equal(first[key], other[key]) for other in others for key in first)
