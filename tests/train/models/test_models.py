from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import bundle
from common.bundle import Bundle
from common.errors import UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS
from train.models import load
from train.models.tcn_transformer import OUTPUTS, TemporalModel, TemporalOptions
from train.models.vit import Encoder, EncoderOptions

ENCODER = EncoderOptions(image=64, channels=1, patch=8, dim=128, depth=4, heads=4)
TEMPORAL = TemporalOptions(
    features=128, channels=(128, 128, 128), dim=128, layers=2, heads=4, feedforward=256, hidden=128
)


@pytest.fixture(scope="module")
def make_bundle() -> Callable[..., Bundle]:
    def make(folder: Path, outputs: dict[str, int] = OUTPUTS, **changes: Any) -> Bundle:
        torch.manual_seed(0)
        weights = {"encoder.safetensors": Encoder(ENCODER).state_dict()}
        for task, width in outputs.items():
            weights[f"{task}.safetensors"] = TemporalModel(TEMPORAL, width).state_dict()
        manifest = {
            "name": "random",
            "tasks": tuple(OUTPUTS),
            "encoder": {"kind": "vit", "options": ENCODER.model_dump(mode="json"), "file": "encoder.safetensors"},
            "preprocess": {"crop": [12, 18, 88], "size": 64, "grey": True, "standardise": True},
            "crop": {"size": 112},
            "temporal": {
                task: {"options": TEMPORAL.model_dump(mode="json"), "file": f"{task}.safetensors"} for task in OUTPUTS
            },
            "window": 300,
            "stride": 200,
            "fps": 30.0,
            "gaps": "repeat",
            "classes": {"expr": EXPRESSIONS[: outputs["expr"]], "au": ACTION_UNITS[: outputs["au"]]},
            "thresholds": {"au": 0.5},
            "recipe": {},
            "data": {},
            "metrics": {},
            "code_version": "0",
            "licence": "Apache-2.0",
            "intended_use": "tests",
        }
        return bundle.write(folder, manifest | changes, weights)

    return make


@pytest.fixture(scope="module")
def random_bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "random")


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 112, 112, 3)).astype(np.uint8)


def test_features_do_not_depend_on_the_batch(random_bundle: Bundle) -> None:
    model = load(random_bundle)
    whole = model.encode(crops(37))
    assert whole.shape == (37, 128)
    assert whole.dtype == np.float32
    for size in (1, 8):
        pieces = [model.encode(crops(37)[i : i + size]) for i in range(0, 37, size)]
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4, rtol=0)


def test_predictions_are_in_their_ranges_and_do_not_depend_on_the_batch(random_bundle: Bundle) -> None:
    model = load(random_bundle)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 300, 128)).astype(np.float32)
    valid = np.arange(300) < np.array([300, 300, 120, 7, 1])[:, None]
    found = model.heads(features, valid)
    assert {task: values.shape for task, values in found.items()} == {k: (5, 300, n) for k, n in OUTPUTS.items()}
    assert np.abs(found["va"]).max() <= 1
    np.testing.assert_allclose(found["expr"][valid].sum(-1), 1, atol=1e-5)
    assert found["au"].min() >= 0
    assert found["au"].max() <= 1
    for row in range(5):
        alone = model.heads(features[row : row + 1], valid[row : row + 1])
        for task, values in alone.items():
            np.testing.assert_allclose(values[0][valid[row]], found[task][row][valid[row]], atol=1e-4)


def test_bfloat16_stays_within_the_stated_bound(random_bundle: Bundle) -> None:
    exact, coarse = load(random_bundle), load(random_bundle, dtype="bfloat16")
    pictures = crops(60)
    precise = exact.encode(pictures)
    features = coarse.encode(pictures)
    assert np.abs(features - precise).max() < 0.1
    alone = np.concatenate([coarse.encode(pictures[i : i + 1]) for i in range(60)])
    assert np.abs(features - alone).max() < 0.1
    valid = np.ones((1, 60), bool)
    for task, values in coarse.heads(features[None], valid).items():
        assert np.abs(values - exact.heads(precise[None], valid)[task]).max() < 0.1


def test_a_head_has_as_many_outputs_as_the_bundle_names_classes(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "few", outputs={"va": 2, "expr": 3, "au": 1})
    found = load(made).heads(np.zeros((1, 4, 128), np.float32), np.ones((1, 4), bool))
    assert {task: values.shape[2] for task, values in found.items()} == {"va": 2, "expr": 3, "au": 1}


def test_weights_that_do_not_fit_and_encoders_of_another_kind_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    options = ENCODER.model_dump(mode="json") | {"depth": 5}
    made = make_bundle(tmp_path / "a", encoder={"kind": "vit", "options": options, "file": "encoder.safetensors"})
    with pytest.raises(UsageError, match="does not fit"):
        load(made)
    options = ENCODER.model_dump(mode="json")
    made = make_bundle(tmp_path / "b", encoder={"kind": "new", "options": options, "file": "encoder.safetensors"})
    with pytest.raises(UsageError, match="kind 'new'"):
        load(made)
