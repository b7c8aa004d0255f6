from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import bootstrap, metrics


def sample(task: str, seed: int, videos: int = 6, frames: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, targets with a tenth of them missing, and videos of unequal length."""
    rng = np.random.default_rng(seed)
    video = np.sort(rng.integers(0, videos, frames)) * 3 + 1
    missing = rng.random(frames) < 0.1
    if task == "va":
        targets = rng.normal(0.2, 0.4, (frames, 2))
        predictions = targets + rng.normal(0.1, 0.3, (frames, 2))
        targets[missing, rng.integers(2)] = np.nan
        return predictions, targets.astype(np.float32), video
    if task == "expr":
        return rng.random((frames, 12)), np.where(missing, -1, rng.integers(0, 8, frames)), video
    return (
        rng.random((frames, 12)),
        np.where(rng.random((frames, 12)) < 0.1, -1, rng.integers(0, 2, (frames, 12))),
        video,
    )


def again(video: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rows of all frames, those of each video as often as it was drawn."""
    each = [np.flatnonzero(video == name) for name in np.unique(video)]
    return np.concatenate([np.tile(rows, count) for rows, count in zip(each, weights, strict=True)] or [[]]).astype(int)


@pytest.mark.parametrize("task", ["va", "expr", "au"])
@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=25)
def test_a_draw_of_videos_is_measured_as_their_frames_repeated_would_be(
    task: str, seed: int, data: st.DataObject
) -> None:
    predictions, targets, video = sample(task, seed)
    count = len(np.unique(video))
    weights = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    weights[0] += not weights.any()
    rows = again(video, weights)
    found = bootstrap.resampled(task, predictions, targets, video, weights[None])
    expected = metrics.measure(task, predictions[rows], targets[rows])
    for name, values in found.items():
        if not name.startswith("per_video"):
            np.testing.assert_allclose(values[0], expected[name], atol=1e-9, err_msg=name)


def test_the_mean_over_videos_leaves_out_those_without_a_ccc() -> None:
    predictions, targets, video = sample("va", 3)
    targets[video == video[0]] = np.nan
    each = [metrics.ccc(predictions[video == one, 0], targets[video == one, 0]) for one in np.unique(video)]
    assert np.isnan(each).any()
    found = bootstrap.per_video("va", predictions, targets, video)
    assert found["ccc_valence"] == pytest.approx(np.nanmean(each))
    assert bootstrap.per_video("expr", *sample("expr", 3)) == {}


def test_intervals_are_the_same_in_every_run_and_those_of_a_plain_loop() -> None:
    predictions, targets, video = sample("expr", 1, videos=12, frames=600)
    found = bootstrap.intervals("expr", predictions, targets, video)["f1_expression"]
    assert found == bootstrap.intervals("expr", predictions, targets, video)["f1_expression"]
    rng, names = np.random.default_rng(9), np.unique(video)
    values = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(video == name) for name in rng.choice(names, len(names))])
        values.append(metrics.expression_f1(predictions[rows].argmax(1), targets[rows]))
    np.testing.assert_allclose(found, np.percentile(values, [2.5, 97.5]), atol=0.005)


def test_draws_that_are_made_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, targets, video = sample("va", 2)
    whole = bootstrap.intervals("va", predictions, targets, video)
    monkeypatch.setattr(bootstrap, "_HELD", 7 * len(np.unique(video)))
    pieces = bootstrap.intervals("va", predictions, targets, video)
    for name, interval in whole.items():
        np.testing.assert_allclose(pieces[name] or (), interval or (), atol=1e-12)


def test_an_interval_covers_what_all_videos_of_the_world_would_give() -> None:
    """95 % of such intervals should; of 100, fewer than 85 or all would be chance in one of 10,000 tests."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        video = np.repeat(np.arange(40), 25)
        truth = rng.normal(0, 1, (1000, 2)) + rng.normal(0, 0.7, (40, 1))[video]
        predictions = 0.5 * truth + rng.normal(0, 0.5, (1000, 2)) + rng.normal(0, 0.3, (40, 1))[video]
        # Lin's CCC of these distributions: 2 cov / (var + var), the means being equal.
        variance = 1 + 0.49
        expected = 2 * 0.5 * variance / (variance + 0.25 * variance + 0.25 + 0.09)
        low, high = bootstrap.intervals("va", predictions, truth, video)["ccc_valence"] or (0, 0)
        covered += low <= expected <= high
    assert 85 <= covered < 100


def test_one_video_says_nothing_of_others_and_a_constant_has_no_ccc() -> None:
    predictions, targets, video = sample("va", 5)
    assert set(bootstrap.intervals("va", predictions, targets, np.zeros_like(video)).values()) == {None}
    same = np.full_like(predictions, 0.3)
    assert bootstrap.intervals("va", same, same, video)["ccc_valence"] is None
