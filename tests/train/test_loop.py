from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import MienError
from train import loop
from train.models.tcn_transformer import TcnTransformerOptions
from train.models.vit import DecoderOptions, MaskedAutoencoder, VitOptions
from train.objectives import Batch, Objective
from train.recipe import StageOptions

STAGE = StageOptions(steps=12, batch=16, lr=0.02, warmup=3, weight_decay=0.1, clip=0.5)


class Regression(Objective):
    """An objective small enough to follow, with everything that a model here has: matrices, vectors, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.PReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def forward(self, batch: Batch) -> Tensor:
        return ((self.model(batch["x"])[:, 0] - batch["y"]).float() ** 2).mean()


def batch_at(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 6, generator=generator)
    return {"x": x, "y": x[:, 0] * 2 - x[:, 1]}


def plain(stage: StageOptions, name: str) -> dict[str, Tensor]:
    """The same training in plain PyTorch."""
    objective = Regression()
    matrices = [p for p in objective.parameters() if p.ndim > 1]
    vectors = [p for p in objective.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=stage.betas,
    )
    for step in range(stage.steps):
        torch.manual_seed(loop.step_seed(7, name, step))
        for group in optimiser.param_groups:
            group["lr"] = loop.learning_rate(step, stage)
        loss = objective(batch_at(step))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), stage.clip)
        optimiser.step()
    return objective.state_dict()


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with loop.process_group():
        yield


def session(tmp_path: Path, zero: int = 1, precision: str = "float32") -> loop.Session:
    return loop.Session(seed=7, zero=zero, precision=precision, device="cpu", work=tmp_path)


def test_the_learning_rate_warms_up_and_then_follows_a_cosine() -> None:
    stage = StageOptions(steps=110, batch=1, lr=2.0, warmup=10)
    rates = [loop.learning_rate(step, stage) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[109] == pytest.approx(1 + math.cos(math.pi * 0.99))
    assert loop.learning_rate(0, StageOptions(steps=1, batch=1, lr=3.0)) == 3.0


def test_matrices_and_tokens_decay_biases_and_norms_do_not() -> None:
    vit = VitOptions(image=16, patch=8, dim=8, depth=1, heads=1)
    decaying, others = loop._groups(MaskedAutoencoder(vit, DecoderOptions(dim=8, depth=1, heads=1)), 0.05)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    # in each of two blocks 4 matrices; patches in, to the decoder and to pixels; two tokens
    assert len(decaying["params"]) == 2 * 4 + 3 + 2
    assert {each.ndim for each in others["params"]} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_zero_stage_trains_as_plain_pytorch_does(zero: int, group: None, tmp_path: Path) -> None:
    objective = Regression()
    loop.fit("toy", objective, batch_at, STAGE, session(tmp_path, zero), 16)
    for name, expected in plain(STAGE, "toy").items():
        torch.testing.assert_close(objective.state_dict()[name], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_weight_norm_and_batch_norm_train_the_same_at_every_zero_stage(zero: int, group: None, tmp_path: Path) -> None:
    class Windows(Objective):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = {"channels": (8, 8), "dim": 8, "layers": 1, "heads": 2, "feedforward": 16, "hidden": 8}
            self.model = TcnTransformerOptions(**sizes, weight_norm=True, norm="batch").build(6, 1)

        def forward(self, batch: Batch) -> Tensor:
            predicted = self.model(batch["x"].view(4, 4, 6), torch.ones(4, 4, dtype=torch.bool, device="cpu"))
            return ((predicted.flatten() - batch["y"]).float() ** 2).mean()

    trained = []
    for stage in (0, zero):
        trained.append(Windows())
        loop.fit("windows", trained[-1], batch_at, STAGE, session(tmp_path, stage), 16)
    # Outputs, not weights: the bias of attention's keys changes no output, so its gradients are rounding errors.
    with torch.inference_mode():
        expected, found = (each.eval()(batch_at(99)) for each in trained)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    lengths = [dict(each.named_parameters())["model.tcn.0.conv1.length"] for each in (Windows(), *trained)]
    assert not torch.equal(lengths[0], lengths[1])
    torch.testing.assert_close(lengths[2], lengths[1], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights_and_comes_close(group: None, tmp_path: Path) -> None:
    objective = Regression()
    loop.fit("toy", objective, batch_at, STAGE, session(tmp_path, precision="bfloat16"), 16)
    for name, expected in plain(STAGE, "toy").items():
        found = objective.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.mark.slow
def test_stages_follow_one_another_and_the_log_tells_of_each(group: None, tmp_path: Path) -> None:
    objective = Regression()
    for name in ("first", "second"):
        loop.fit(name, objective, batch_at, STAGE, session(tmp_path), 16)
    first, second = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    )
    assert [line["step"] for line in first] == [line["step"] for line in second] == list(range(12))
    assert second[-1]["loss"] < first[0]["loss"]
    assert set(first[0]) == {"stage", "step", "loss", "lr", "wall_s"}


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(group: None, tmp_path: Path) -> None:
    def broken(step: int) -> Batch:
        batch = dict(batch_at(step))
        return batch if step < 3 else batch | {"y": torch.full((16,), float("inf"))}

    with pytest.raises(MienError, match=r"^toy: the loss is inf at step 3: lower that stage's lr"):
        loop.fit("toy", Regression(), broken, STAGE, session(tmp_path), 16)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2])
def test_gradients_that_are_not_finite_end_the_training_though_the_loss_is(
    zero: int, group: None, tmp_path: Path
) -> None:
    class Steep(Regression):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) + 0.0 * torch.sqrt(self.model[0].weight * 0.0).sum()

    with pytest.raises(MienError, match=r"^toy: the gradients are not finite at step 0: lower that stage's lr"):
        loop.fit("toy", Steep(), batch_at, STAGE, session(tmp_path, zero), 16)


def test_bfloat16_is_chosen_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop.resolve_precision("float32", "cuda") == "float32"
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda found=supported, **_: found)
        assert loop.resolve_precision("auto", "cuda") == expected
    for capabilities, expected in (
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert loop.resolve_precision("auto", "cpu") == expected
