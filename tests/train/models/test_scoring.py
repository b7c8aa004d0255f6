from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import OUTPUTS, heads, make_bundle

from common.bundle.folder import Bundle
from common.errors import UsageError
from train.models.linear import LinearOptions
from train.models.options import HeadOptions, part
from train.models.scoring import load
from train.models.tcn_transformer import TcnTransformerOptions
from train.models.vit import VitOptions

ENCODER = VitOptions(image=64, channels=1, patch=8, dim=128, depth=4, heads=4)
TEMPORAL = TcnTransformerOptions(channels=(128, 128, 128), dim=128, layers=2, heads=4, feedforward=256, hidden=128)
PREPROCESS = {"crop": [12, 18, 88], "size": 64, "grey": True, "standardise": True}


def a_bundle(folder: Path, head: HeadOptions | dict[str, HeadOptions] = TEMPORAL, **changes: Any) -> Bundle:
    return make_bundle(folder, ENCODER, head, PREPROCESS, 112, **changes)


@pytest.fixture(scope="module")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return a_bundle(tmp_path_factory.mktemp("bundles") / "random")


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
    found = model.predict(OUTPUTS, features, valid)
    assert {task: values.shape for task, values in found.items()} == {
        task: (5, 300, len(names)) for task, names in OUTPUTS.items()
    }
    assert np.abs(found["va"]).max() <= 1
    np.testing.assert_allclose(found["expr"][valid].sum(-1), 1, atol=1e-5)
    assert found["au"].min() >= 0
    assert found["au"].max() <= 1
    for row in range(5):
        alone = model.predict(OUTPUTS, features[row : row + 1], valid[row : row + 1])
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
    for task, values in coarse.predict(OUTPUTS, features[None], valid).items():
        assert np.abs(values - exact.predict(OUTPUTS, precise[None], valid)[task]).max() < 0.1


def test_a_head_has_the_outputs_that_the_bundle_names(tmp_path: Path) -> None:
    few = {"va": ("valence", "arousal"), "expr": ("contempt", "fear", "anger"), "au": ("au12",)}
    model = load(a_bundle(tmp_path / "few", outputs=few))
    found = model.predict(few, np.zeros((1, 4, 128), np.float32), np.ones((1, 4), bool))
    assert {task: values.shape[2] for task, values in found.items()} == {"va": 2, "expr": 3, "au": 1}
    assert {task: head.outputs for task, head in model.heads.items()} == few


def test_only_the_tasks_that_are_asked_for_are_predicted(random_bundle: Bundle) -> None:
    found = load(random_bundle).predict(["au"], np.zeros((1, 4, 128), np.float32), np.ones((1, 4), bool))
    assert list(found) == ["au"]


def test_a_linear_head_says_of_a_face_the_same_whatever_stands_beside_it() -> None:
    torch.manual_seed(0)
    head = LinearOptions().build(16, 8).eval()
    features = torch.randn(3, 5, 16)
    alone = head(features.reshape(15, 1, 16), torch.ones(15, 1, dtype=torch.bool))
    torch.testing.assert_close(head(features, torch.rand(3, 5) < 0.5).reshape(15, 1, 8), alone)


def test_heads_of_several_kinds_have_windows_of_their_own(tmp_path: Path) -> None:
    slow = TcnTransformerOptions(**TEMPORAL.model_dump(exclude={"windowing"}), windowing={"fps": 5, "gaps": "mask"})
    model = load(a_bundle(tmp_path / "mixed", {"va": slow, "expr": LinearOptions(), "au": TEMPORAL}))
    assert {task: head.windowing for task, head in model.heads.items()} == {
        "va": slow.windowing,
        "expr": None,
        "au": TEMPORAL.windowing,
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 5}, r"^encoder\.safetensors of the bundle .* does not fit its options"),
        ({"deep": 4}, r"encoder of kind vit with options .* cannot use, unknown key 'deep': did you mean 'depth'\?.*"),
        ({"patch": 5}, r"cannot use, image 64 is not a multiple of patch 5.*: upgrade mien, or train it again"),
    ],
)
def test_options_and_weights_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    encoder = part(ENCODER, "encoder")
    encoder["options"] |= changes
    with pytest.raises(UsageError, match=sentence):
        load(a_bundle(tmp_path / "a", encoder=encoder))


def test_a_stride_beyond_the_window_is_refused(tmp_path: Path) -> None:
    wrong = heads(TEMPORAL)
    wrong["au"]["options"]["windowing"]["stride"] = 301
    with pytest.raises(UsageError, match=r"head of kind tcn_transformer .* frames would be left out"):
        load(a_bundle(tmp_path / "a", heads=wrong))


@pytest.mark.parametrize("noun", ["encoder", "head"])
def test_a_network_of_a_kind_that_is_not_here_is_refused_with_what_to_do(tmp_path: Path, noun: str) -> None:
    strange = {"kind": "new"}
    several = heads(TEMPORAL)
    changes = {"encoder": {"encoder": part(ENCODER, "encoder") | strange}, "head": {"heads": several}}[noun]
    several["expr"] |= strange
    made = a_bundle(tmp_path / "a", **changes)
    with pytest.raises(UsageError, match=rf"the {noun} kind 'new', which this version of mien .*: upgrade mien$"):
        load(made)
