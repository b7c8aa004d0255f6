from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from event_files import scalars
from torch import Tensor, nn

from common.errors import MienError
from common.store.store import Store
from train import loop, optimiser, processes
from train.losses import expression_loss
from train.models import ranks
from train.models.tcn_transformer import TcnTransformerOptions
from train.models.vit import DecoderOptions, MaskedAutoencoder, VitOptions
from train.objectives import Batch, ExpressionFinetune, Objective
from train.recipe import Recipe
from train.schedule import Schedule
from train.stage_options import ClipStage, FinetuneStage, StageOptions
from train.validation import Kept, Validation, score

STAGE = StageOptions(steps=12, batch=16, lr=0.02, warmup=3, weight_decay=0.1, clip=0.5)
EXAMPLES = 16
HEAD = {"steps": 1, "batch": 1, "lr": 1.0, "model": {"kind": "linear"}}


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


def plain(stage: StageOptions, name: str, steps: int | None = None) -> dict[str, Tensor]:
    """The same training in plain PyTorch, or its first steps."""
    objective = Regression()
    matrices = [p for p in objective.parameters() if p.ndim > 1]
    vectors = [p for p in objective.parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=stage.betas,
    )
    for step in range(steps or stage.steps):
        torch.manual_seed(loop.step_seed(7, name, step))
        for group in adamw.param_groups:
            group["lr"] = Schedule(stage, EXAMPLES).learning_rate(step)
        loss = objective(batch_at(step))
        adamw.zero_grad()
        loss.backward()
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), stage.clip)
        adamw.step()
    return objective.state_dict()


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with processes.process_group():
        yield


def session(tmp_path: Path, zero: int = 1, precision: str = "float32") -> loop.Session:
    return loop.Session(seed=7, zero=zero, precision=precision, device="cpu", work=tmp_path, store=Store(str(tmp_path)))


def test_matrices_and_tokens_decay_biases_and_norms_do_not() -> None:
    objective = Regression()
    vit = VitOptions(image=16, patch=8, dim=8, depth=1, heads=1)
    objective.model = MaskedAutoencoder(vit, DecoderOptions(dim=8, depth=1, heads=1))
    stage = StageOptions(steps=1, batch=1, lr=1, weight_decay=0.05)
    decaying, others = optimiser.build(objective, stage, "cpu").param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    # in each of two blocks 4 matrices; patches in, to the decoder and to pixels; two tokens
    assert len(decaying["params"]) == 2 * 4 + 3 + 2
    assert {each.ndim for each in others["params"]} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_zero_stage_trains_as_plain_pytorch_does(zero: int, group: None, tmp_path: Path) -> None:
    objective = Regression()
    loop.fit("toy", objective, batch_at, STAGE, session(tmp_path, zero), EXAMPLES)
    for name, expected in plain(STAGE, "toy").items():
        torch.testing.assert_close(objective.state_dict()[name], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1])
def test_without_a_largest_norm_gradients_are_not_clipped(zero: int, group: None, tmp_path: Path) -> None:
    objective, stage = Regression(), STAGE.model_copy(update={"clip": None})
    loop.fit("toy", objective, batch_at, stage, session(tmp_path, zero), EXAMPLES)
    for name, expected in plain(stage, "toy").items():
        torch.testing.assert_close(objective.state_dict()[name], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_zero_3_gives_back_weights_that_it_had_taken_apart_and_they_can_be_trained_again(
    group: None, tmp_path: Path
) -> None:
    objective = Regression()
    objective.model.append(nn.Sequential(nn.Linear(1, 400), nn.Linear(400, 400), nn.Linear(400, 1)))
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    for name in ("first", "second"):  # DeepSpeed leaves tensors below 100,000 values whole
        loop.fit(name, objective, batch_at, STAGE, session(tmp_path, zero=3), EXAMPLES)
        for key, tensor in objective.state_dict().items():
            assert tensor.shape == before[key].shape
            assert not torch.equal(tensor, before[key]), key


VALIDATED = FinetuneStage(**STAGE.model_dump(), select="best", validate_every=3)


class TwoParts(Regression):
    """The same with a name for each of its parts, one of which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.model[1].requires_grad_(False)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"image": list(self.model[0].parameters()), "temporal": list(self.model[4].parameters())}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_sgd_with_a_rate_for_each_part_is_torchs_at_every_zero_stage(zero: int, group: None, tmp_path: Path) -> None:
    stage = ClipStage(
        epochs=12, batch=16, lr=0.1, lr_of={"image": 0.01}, milestones=(6, 9), weight_decay=0.1, momentum=0.9
    )
    expected = TwoParts()
    expected.model[3].p = 0.0
    objective = copy.deepcopy(expected)
    sgd = torch.optim.SGD(
        [{"params": expected.model[0].parameters(), "lr": 0.01}, {"params": expected.model[4].parameters()}],
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
    )
    steps = torch.optim.lr_scheduler.MultiStepLR(sgd, [6, 9])
    for step in range(12):
        sgd.zero_grad()
        expected(batch_at(step)).backward()
        sgd.step()
        steps.step()
    loop.fit("toy", objective, batch_at, stage, session(tmp_path, zero), EXAMPLES)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(objective.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


class SharedRegression(Regression):
    """The same with dropout and a loss as all objectives have them, which several portions of a batch may share."""

    def __init__(self) -> None:
        super().__init__()
        self.model[3] = ranks.Dropout(0.3)

    def forward(self, batch: Batch) -> Tensor:
        return expression_loss(self.model(batch["x"]) * torch.tensor([1.0, 0, -1]), (batch["y"] > 0).long())


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_batch_in_portions_trains_as_one_that_is_whole(zero: int, group: None, tmp_path: Path) -> None:
    found = []
    for most in (None, 6):  # 16 examples: 5, 5 and 6
        objective = SharedRegression()
        stage = STAGE.model_copy(update={"micro_batch": most})
        loop.fit("toy", objective, batch_at, stage, session(tmp_path, zero), EXAMPLES)
        lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
        found.append((dict(objective.state_dict()), [line["loss"] for line in lines]))
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-6, rtol=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_the_moving_average_of_the_weights_is_measured_and_kept(zero: int, group: None, tmp_path: Path) -> None:
    measured: list[dict[str, Tensor]] = []

    def measure(objective: Objective) -> dict[str, float]:
        measured.append({name: tensor.clone() for name, tensor in objective.state_dict().items()})
        return {"f1_expression": 0.0}

    stage = VALIDATED.model_copy(update={"average": 0.6, "select": "last"})
    objective = Regression()
    loop.fit("toy", objective, batch_at, stage, session(tmp_path, zero), EXAMPLES, Validation("expr", measure, "last"))
    expected = Regression().state_dict()
    for step in range(STAGE.steps or 0):
        decay = min(0.6, (1 + step) / (10 + step))
        now = plain(STAGE, "toy", step + 1)
        expected = {name: decay * tensor + (1 - decay) * now[name] for name, tensor in expected.items()}
    torch.testing.assert_close(dict(objective.state_dict()), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(measured[-1], expected, atol=2e-5, rtol=1e-4)
    assert not torch.equal(measured[0]["model.0.weight"], measured[-1]["model.0.weight"])


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_each_layer_learns_at_a_share_of_the_rate_of_the_next(kind: str) -> None:
    encoder = {"kind": kind, "image": 16, "patch": 8, "dim": 8, "depth": 3, "heads": 1}
    keys = {
        "name": "a", "intended_use": "tests", "licence": "none", "crop": {"size": 16}, "encoder": encoder,
        "preprocess": {"crop": [0, 0, 16], "size": 16}, "init": "random", "heads": {"h": HEAD},
        "finetune": {"steps": 1, "batch": 1, "lr": 1.0, "layer_decay": 0.5, "drop_path": 0.4},
    }  # fmt: skip
    chosen = Recipe.model_validate(keys)
    objective = ExpressionFinetune(chosen, chosen.encoder.build())
    groups = optimiser.build(objective, chosen.finetune, "cpu").param_groups
    share = {id(each): group["share"] for group in groups for each in group["params"]}
    found = {name: share[id(each)] for name, each in objective.named_parameters()}
    for name, value in found.items():
        number = re.search(r"blocks\.(\d)", name)
        stem = ("patch_embed", "cls_token", "conv1", "class_emb", "positional_emb", "ln_pre")
        before = number is None and any(word in name for word in stem)
        # BEiT and MAE number the layers: 0 for the stem, 1 to depth for the blocks, depth + 1 for what follows
        layer = 0 if before else 4 if number is None else int(number[1]) + 1
        assert value == pytest.approx(0.5 ** (4 - layer)), name
    assert {round(value, 4) for value in found.values()} == {0.0625, 0.125, 0.25, 0.5, 1.0}
    paths = [module.p for module in objective.encoder.modules() if isinstance(module, ranks.DropPath)]
    assert sorted(set(paths)) == pytest.approx([0, 0.2, 0.4])
    pictures = torch.randn(5, 3, 16, 16)
    torch.manual_seed(0)
    assert not torch.equal(objective.encoder.train()(pictures), objective.encoder(pictures))
    assert torch.equal(objective.encoder.eval()(pictures), objective.encoder(pictures))


def test_a_dropped_path_is_that_of_whole_examples_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    kept = ranks.DropPath(0.25).train()(torch.ones(4000, 3, 2))
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("zero", [1, 3])
def test_the_weights_with_the_best_score_are_kept(zero: int, group: None, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    scores = iter([0.2, 0.9, 0.4, 0.9])

    def measure(objective: Objective) -> dict[str, float]:
        assert not objective.training
        seen.append({name: tensor.clone() for name, tensor in objective.state_dict().items()})
        return {"f1_expression": next(scores)}

    objective = Regression()
    validation = Validation("expr", measure, "best")
    kept = loop.fit("toy", objective, batch_at, VALIDATED, session(tmp_path, zero), EXAMPLES, validation)
    assert kept == Kept(5, "f1_expression", 0.9)
    torch.testing.assert_close(dict(objective.state_dict()), seen[1], atol=0, rtol=0)
    assert not torch.equal(seen[1]["model.0.weight"], seen[3]["model.0.weight"])
    torch.testing.assert_close(seen[3], plain(STAGE, "toy"), atol=2e-5, rtol=1e-4)  # validation changes no step
    board = scalars(tmp_path / "tensorboard" / "toy")["validation/f1_expression"]
    assert board == [(step, pytest.approx(value)) for step, value in ((2, 0.2), (5, 0.9), (8, 0.4), (11, 0.9))]
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert {line["step"]: line["metrics"]["f1_expression"] for line in lines if "metrics" in line} == {
        2: 0.2,
        5: 0.9,
        8: 0.4,
        11: 0.9,
    }


def chosen(select: Literal["last", "best"], *scores: float) -> Kept | None:
    found = iter(scores)
    validation = Validation("expr", lambda objective: {"f1_expression": next(found)}, select)
    for step in range(len(scores)):
        validation.run(step, Regression(), Regression().state_dict())
    return validation.kept


def test_a_score_that_is_not_defined_is_worse_than_any_other() -> None:
    nan = float("nan")
    assert chosen("best", nan, 0.0, nan) == Kept(1, "f1_expression", 0.0)
    assert chosen("best", nan, nan) == Kept(1, "f1_expression", None)


def test_the_last_weights_are_kept_where_these_are_wanted() -> None:
    assert chosen("last", 0.9, 0.1) == Kept(1, "f1_expression", 0.1)


def test_the_score_of_valence_and_arousal_is_the_mean_of_both_cccs() -> None:
    found = score("va", {"ccc_valence": 0.5, "ccc_arousal": 0.1})
    assert found.value == pytest.approx(0.3)
    assert found.metrics[found.by] == found.value


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

    trained, losses = [], []
    for number, stage in enumerate((0, zero)):
        work = tmp_path / str(number)
        work.mkdir()
        trained.append(Windows())
        loop.fit("windows", trained[-1], batch_at, STAGE, session(work, stage), EXAMPLES)
        losses.append([json.loads(line)["loss"] for line in (work / "windows.jsonl").read_text().splitlines()])
    # Losses, not weights: biases of attention's keys and before BatchNorm change none, their gradients are rounding.
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    lengths = [dict(each.named_parameters())["model.tcn.0.conv1.length"] for each in (Windows(), *trained)]
    assert not torch.equal(lengths[0], lengths[1])
    torch.testing.assert_close(lengths[2], lengths[1], atol=1e-4, rtol=1e-3)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_networks_train_as_others_do(group: None, tmp_path: Path) -> None:
    class Network(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:  # torch.compile leaves torch's own alone
            return super().forward(x)

    objective = Regression()
    objective.model[3].p = 0.0  # compiled dropout draws other numbers
    objective.model = Network(*objective.model)
    expected = copy.deepcopy(objective)
    for each, compiled in ((expected, False), (objective, True)):
        work = tmp_path / str(compiled)
        work.mkdir()
        loop.fit("toy", each, batch_at, STAGE, replace(session(work), compiled=compiled), EXAMPLES)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(objective.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1])
def test_bfloat16_keeps_float32_weights_and_comes_close(zero: int, group: None, tmp_path: Path) -> None:
    objective = Regression()
    loop.fit("toy", objective, batch_at, STAGE, session(tmp_path, zero, "bfloat16"), EXAMPLES)
    largest = 0.0
    for name, expected in plain(STAGE, "toy").items():
        found = objective.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
        largest = max(largest, float((found - expected).abs().max()))
    assert largest > 2e-5, "as far off as rounding to bfloat16 makes them: float32 comes closer"


@pytest.mark.slow
def test_stages_follow_one_another_and_the_log_tells_of_each(group: None, tmp_path: Path) -> None:
    objective = Regression()
    for name in ("first", "second"):
        loop.fit(name, objective, batch_at, STAGE, session(tmp_path), EXAMPLES)
    first, second = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    )
    assert [line["step"] for line in first] == [line["step"] for line in second] == list(range(12))
    assert second[-1]["loss"] < first[0]["loss"]
    assert set(first[0]) == {"stage", "step", "loss", "lr", "samples_per_s", "data_wait", "wall_s"}
    assert all(0 <= line["data_wait"] <= 1 for line in first)
    board = scalars(tmp_path / "tensorboard" / "first")
    assert set(board) == {"loss", "lr", "samples_per_s", "data_wait"}
    for name in ("loss", "lr"):
        assert board[name] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in first]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(group: None, tmp_path: Path) -> None:
    def broken(step: int) -> Batch:
        batch = dict(batch_at(step))
        return batch if step < 3 else batch | {"y": torch.full((16,), float("inf"))}

    with pytest.raises(MienError, match=r"^toy: the loss is inf at step 3: lower that stage's lr"):
        loop.fit("toy", Regression(), broken, STAGE, session(tmp_path), EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_gradients_that_are_not_finite_end_the_training_though_the_loss_is(
    zero: int, group: None, tmp_path: Path
) -> None:
    class Steep(Regression):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) + 0.0 * torch.sqrt(self.model[0].weight * 0.0).sum()

    with pytest.raises(MienError, match=r"^toy: the gradients are not finite at step 0: lower that stage's lr"):
        loop.fit("toy", Steep(), batch_at, STAGE, session(tmp_path, zero), EXAMPLES)


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
