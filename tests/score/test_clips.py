"""A bundle of DFER-CLIP says of a track what the model of its training says of the clips that cover it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from bundles import make_bundle
from torch import nn

from common.bundle.folder import Bundle
from common.commit.units import Video
from common.faces import FaceBatch
from common.labels import ALL_EXPRESSIONS
from common.tasks import TASKS
from score.stream import ScoreOptions, scores
from train.models import dfer_clip
from train.models.clip import ClipOptions
from train.models.dfer_clip import DferClip, DferClipOptions
from train.models.scoring import load

VIDEO = Video(uri="/clips/a.mp4", version="1-2", size=1)
CLASSES = tuple(name for name in reversed(ALL_EXPRESSIONS) if name != "other")
FPS = 6.25  # 16 frames of a clip of 2.56 s
ENCODER = ClipOptions(image=8, patch=4, dim=32, depth=1, heads=2, projection=16)
OPTIONS = DferClipOptions(
    windowing={"fps": FPS, "window": 16, "stride": 4}, text={"width": 16, "depth": 1, "heads": 2}, mlp=32
)


@pytest.fixture(scope="module")
def trained() -> DferClip:
    torch.manual_seed(3)
    model, _ = dfer_clip.build(ENCODER, OPTIONS, CLASSES)
    for parameter in (*model.image.parameters(), *model.temporal.parameters()):
        nn.init.normal_(parameter, std=0.5)  # so that clips differ
    return model.eval()


@pytest.fixture(scope="module")
def bundle(trained: DferClip, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    weights = {"encoder.safetensors": trained.image.state_dict(), "expr.safetensors": trained.head().state_dict()}
    preprocess = {"crop": [0, 0, 8], "size": 8}
    folder = tmp_path_factory.mktemp("bundles") / "clips"
    return make_bundle(folder, ENCODER, OPTIONS, preprocess, 8, outputs={"expr": CLASSES}, weights=weights)


@torch.inference_mode()
def of_clips(trained: DferClip, crops: np.ndarray) -> np.ndarray:
    """Clips of crops uint8 [N, 16, 8, 8, 3] -> probabilities [N, K]."""
    pictures = torch.from_numpy(crops / 255).float().permute(0, 1, 4, 2, 3)
    return trained(pictures).softmax(-1).numpy()


def scored(bundle: Bundle, batches) -> np.ndarray:
    table = pa.concat_tables(scores(batches, load(bundle), VIDEO, ScoreOptions())).to_pandas()
    assert table.expr_other.isna().all()
    return table[TASKS["expr"].columns(CLASSES)].to_numpy()


def track(make_faces, frames: int, fps: float = FPS) -> FaceBatch:
    """A face that is in all frames, and lit by a lamp that is dimmed."""
    (batch,) = make_faces({0: list(range(frames))}, frames, fps=fps, size=frames)
    light = np.cos(np.linspace(0, 3, frames))[:, None, None, None] ** 2
    return replace(batch, crops=(batch.crops * light).astype(np.uint8))


@pytest.mark.parametrize(("every", "first"), [(1, 0), (4, 2)], ids=["6.25 frames/s", "25 frames/s"])
def test_a_track_of_16_sampled_frames_has_what_training_gives_for_this_clip(
    trained, bundle, make_faces, every, first
) -> None:
    """Of a video with more frames than the clips have, those in the middle of 16 segments are sampled."""
    batch = track(make_faces, 15 * every + first + 1, FPS * every)
    expected = of_clips(trained, batch.crops[None, first::every])
    assert np.ptp(expected) > 0.1
    found = scored(bundle, [batch])
    np.testing.assert_allclose(found, np.repeat(expected, len(batch), axis=0), atol=1e-5)


def test_a_frame_has_the_mean_of_the_clips_that_cover_it(trained, bundle, make_faces) -> None:
    batch = track(make_faces, 24)
    starts = [0, 4, 8]
    clips = of_clips(trained, np.stack([batch.crops[start : start + 16] for start in starts]))
    assert np.ptp(clips, axis=0).max() > 1e-3
    expected = [
        np.mean([clip for start, clip in zip(starts, clips, strict=True) if start <= frame < start + 16], axis=0)
        for frame in range(24)
    ]
    np.testing.assert_allclose(scored(bundle, [batch]), expected, atol=1e-5)


def test_a_track_that_is_too_short_is_filled_with_its_last_frame_as_in_training(trained, bundle, make_faces) -> None:
    batch = track(make_faces, 10)
    filled = batch.crops[np.minimum(np.arange(16), 9)]
    expected = of_clips(trained, filled[None])
    assert np.abs(expected - of_clips(trained, np.pad(batch.crops, ((0, 6), *[(0, 0)] * 3))[None])).max() > 1e-3
    np.testing.assert_allclose(scored(bundle, [batch]), np.repeat(expected, 10, axis=0), atol=1e-5)
