"""Frames per second from a video to rows of scores with the default model, and each stage's share of the time.

    python -m benchmarks.score [--video FILE] [--seconds 30]

One worker with one thread, without storage; `mien score` runs one worker per core. `open` is the start of the decoder
process, once per video. The decoder then works at the same time as the worker, and `decode` is how long the worker
waits for frames. `rest` is tracking, cuts, quality and rows.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import clips
from benchmarks.support.harness import Result, parser, run
from common.commit.units import Video
from common.store.base import StoreSettings, file_version
from ingest.align import Aligner
from ingest.decode.reader import FrameBatch, VideoReader
from ingest.detect.mtcnn import Mtcnn
from ingest.source import FaceSource, FaceStream
from score.job import ScoreConfig, ScoreProcessor, opened
from train.models.scoring import ScoringModel

STAGES: dict[str, tuple[Any, str]] = {
    "detect": (Mtcnn, "__call__"),
    "align": (Aligner, "__call__"),
    "encode": (ScoringModel, "encode"),
    "heads": (ScoringModel, "predict"),
}


def timed() -> dict[str, float]:
    """Seconds of each stage, from now on: wraps the methods of all stages with a timer."""
    seconds = dict.fromkeys(("open", "decode", *STAGES), 0.0)

    def counted(stage: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = original(*arguments, **options)
            seconds[stage] += time.perf_counter() - began
            return result

        return call

    def waited(reader: VideoReader) -> Iterator[FrameBatch]:
        batches = iterate(reader)
        step = counted("decode", lambda: next(batches, None))
        while (batch := step()) is not None:
            yield batch

    @contextmanager
    def opening(*arguments: Any) -> Iterator[FaceStream]:
        began = time.perf_counter()
        with open_(*arguments) as stream:
            seconds["open"] += time.perf_counter() - began
            yield stream

    for stage, (owner, name) in STAGES.items():
        setattr(owner, name, counted(stage, getattr(owner, name)))
    iterate = VideoReader.__iter__
    VideoReader.__iter__ = waited  # type: ignore[method-assign]
    open_ = FaceSource.open
    FaceSource.open = opening  # type: ignore[method-assign, assignment]
    return seconds


def measure(options: Namespace) -> Result:
    torch.set_num_threads(1)
    seconds = timed()
    with tempfile.TemporaryDirectory() as name, opened(None, None) as bundle:
        path = options.video or Path(name) / "clip.mp4"
        if options.video is None:
            clips.write(path, clips.pictures(15 if options.quick else 150), 1 if options.quick else options.seconds)
        video = Video(str(path), file_version(path.stat()), path.stat().st_size)
        config = ScoreConfig().fitted(bundle.manifest)
        processor = ScoreProcessor(None, bundle.manifest, config, None)(StoreSettings())
        for _ in range(2):  # the first round warms up
            seconds.update(dict.fromkeys(seconds, 0.0))
            began = time.perf_counter()
            known = processor.process(video, lambda table: None, lambda frames: None)
            took = time.perf_counter() - began
    shares = {stage: spent / took for stage, spent in seconds.items()}
    shares["rest"] = 1 - sum(shares.values())
    frames = known["frames"]
    return Result(
        f"from video to rows: {frames / took:.4g} frames/s, {frames} frames ({known['frames_with_face']} with a face)",
        ["stage", "share", "ms a frame"],
        [[stage, share, 1e3 * share * took / frames] for stage, share in shares.items()],
        {f"{stage}_share": share for stage, share in shares.items()},
        {"frames_s": frames / took},
    )


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--video", type=Path, help="score this one [default: a synthetic face of 640x360, made here]")
    made.add_argument("--seconds", type=float, default=30, help="length of the video that is made")
    run("score", measure, made)
