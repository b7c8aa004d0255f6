"""A model small enough to check by hand, and videos of faces made of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from common.bundle.folder import Bundle
from common.faces import FaceBatch
from common.tasks import TASKS
from common.windows import Windowing

SIZE = 8
WINDOWING = Windowing(fps=25)


class ArithmeticModel:
    """Real arithmetic in the form of a bundle: a projection of the pixels, and heads that look at the whole window."""

    def __init__(
        self,
        windowing: Windowing | dict[str, Windowing | None] = WINDOWING,
        tasks: tuple[str, ...] = tuple(TASKS),
        width: int = 16,
        **outputs: tuple[str, ...],
    ) -> None:
        """`windowing`: of all heads, or by task; `outputs`: by task, names where they are not the usual ones."""
        rng = np.random.default_rng(5)
        self.projection = rng.normal(size=(SIZE * SIZE * 3, width)).astype(np.float32) / 20
        self.weights = {
            name: rng.normal(size=(width, len(task.outputs))).astype(np.float32) for name, task in TASKS.items()
        }
        windows = windowing if isinstance(windowing, dict) else dict.fromkeys(tasks, windowing)
        self.heads = {
            task: SimpleNamespace(outputs=outputs.get(task, TASKS[task].outputs), windowing=windows[task])
            for task in tasks
        }
        self.batches: list[int] = []
        self.calls: list[int] = []

    def encode(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        return (crops.reshape(len(crops), -1).astype(np.float32) / 255) @ self.projection

    def predict(self, tasks: list[str], features: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
        self.calls.append(len(features))
        weight = valid[:, :, None].astype(np.float32)
        mean = (features * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
        place = np.linspace(0, 0.5, features.shape[1], dtype=np.float32)[None, :, None]
        raw = {task: (features + mean) @ self.weights[task] + place for task in tasks}
        activated = {
            "va": np.tanh,
            "expr": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
            "au": lambda x: 1 / (1 + np.exp(-x)),
        }
        return {task: activated[task](values).astype(np.float32) for task, values in raw.items()}


@pytest.fixture
def arithmetic_model() -> Callable[..., ArithmeticModel]:
    return ArithmeticModel


def face_batches(
    present: dict[int, list[int]],
    frames: int,
    *,
    fps: float = 25,
    size: int = 16,
    low_quality: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[FaceBatch]:
    """Batches of `size` frames; `present`: track -> frames with its face. Frame and track decide a crop."""
    where: dict[int, list[int]] = {}
    for track, its_frames in sorted(present.items()):
        for frame in its_frames:
            where.setdefault(frame, []).append(track)
    for start in range(0, frames, size):
        indices = np.arange(start, min(start + size, frames), dtype=np.int32)
        keys = [(row, frame, track) for row, frame in enumerate(indices.tolist()) for track in where.get(frame, [])]
        crops = [np.random.default_rng((frame, track)).integers(0, 256, (SIZE, SIZE, 3)) for _, frame, track in keys]
        m = len(keys)
        yield FaceBatch(
            frame_index=indices,
            time_s=indices / fps + 0.5,
            duration_s=np.full(len(indices), 1 / fps),
            row=np.array([key[0] for key in keys], np.int32),
            track_id=np.array([key[2] for key in keys], np.int32),
            box=np.array([[frame, track, frame + 9, track + 9] for _, frame, track in keys], np.float32).reshape(m, 4),
            landmarks=np.zeros((m, 5, 2), np.float32),
            score=np.full(m, 0.9, np.float32),
            yaw=np.zeros(m, np.float32),
            sharpness=np.ones(m, np.float32),
            status=np.array(["low_quality" if key[1:] in low_quality else "ok" for key in keys], dtype="U11"),
            crops=np.array(crops, np.uint8).reshape(m, SIZE, SIZE, 3),
        )


@pytest.fixture
def make_faces() -> Callable[..., Iterator[FaceBatch]]:
    return face_batches


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Real models of all three tasks with random weights, for crops of `SIZE` pixels and short windows."""
    from bundles import make_bundle

    from train.models.tcn_transformer import TcnTransformerOptions
    from train.models.vit import VitOptions

    encoder = VitOptions(image=SIZE, channels=1, patch=4, dim=16, depth=1, heads=2)
    windowing = Windowing(window=30, stride=20, fps=20.0, gaps="mask")
    head = TcnTransformerOptions(
        windowing=windowing, channels=(8, 8), dim=16, layers=1, heads=2, feedforward=16, hidden=8
    )
    preprocess = {"crop": [0, 0, SIZE], "size": SIZE, "grey": True, "standardise": True}
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny", encoder, head, preprocess, SIZE)
