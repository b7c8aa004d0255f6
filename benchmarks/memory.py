"""Peak memory of decoding, detecting and scoring one video in one worker, for a short and a long video.

    python -m benchmarks.memory [--bundle FOLDER] [--video FILE] [--fps 10]

A clip is repeated to 3 and to 30 minutes. Each video is scored in its own process, without Ray, while the resident
memory of the worker and of its decoder is sampled.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path

import psutil

from benchmarks.support.harness import Result, parser, run

MINUTES = (3.0, 30.0)
QUICK_MINUTES = (0.05, 0.1)
SAMPLE_EVERY_S = 0.05


def score(bundle: str, path: str) -> None:
    """Does what a worker does with a video, without storage. Prints the numbers of frames and rows."""
    import torch

    from common.bundle.folder import Bundle
    from common.commit.units import Video
    from common.store.base import StoreSettings, file_version
    from score.job import ScoreConfig, ScoreProcessor

    torch.set_num_threads(1)
    stat = Path(path).stat()
    processor = ScoreProcessor(bundle, Bundle.open(bundle).manifest, ScoreConfig(), None)(StoreSettings())
    rows: list[int] = []
    video = Video(path, file_version(stat), stat.st_size)
    known = processor.process(video, lambda table: rows.append(len(table)), lambda frames: None)
    print(json.dumps({"frames": known["frames"], "rows": sum(rows)}))


def peak(bundle: Path, video: Path) -> dict[str, float]:
    """Peak of resident memory in MB: of the worker, of its decoder, of both together; frames, rows, and seconds."""
    started = time.monotonic()
    # In a new process, so that memory of earlier work does not count.
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory", "--score", str(bundle), str(video)], stdout=subprocess.PIPE
    )
    peaks = {"worker": 0, "decoder": 0, "both": 0}

    def sample() -> None:
        worker = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                mine = worker.memory_info().rss
                theirs = sum(child.memory_info().rss for child in worker.children(recursive=True))
            except psutil.Error:
                continue
            peaks["worker"] = max(peaks["worker"], mine)
            peaks["decoder"] = max(peaks["decoder"], theirs)
            peaks["both"] = max(peaks["both"], mine + theirs)
            time.sleep(SAMPLE_EVERY_S)

    watcher = threading.Thread(target=sample)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"scoring {video} failed")
    return {name: peak / 1e6 for name, peak in peaks.items()} | json.loads(out) | {"s": time.monotonic() - started}


def measure(options: Namespace) -> Result:
    from benchmarks.support import bundles, clips

    lengths = QUICK_MINUTES if options.quick else MINUTES
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle.absolute() if options.bundle else bundles.write(Path(folder) / "bundle").path
        size = (320, 180) if options.quick else (640, 360)
        clip = options.video or Path(folder) / "clip.mp4"
        if options.video is None:
            clips.write(clip, clips.pictures(15 if options.quick else 150, *size), 1.5, options.fps)
        for minutes in lengths:
            video = Path(folder) / f"{minutes:g}.mkv"
            clips.repeat(clip, minutes * 60, video)
            found[minutes] = peak(bundle, video)
    rows: list[list[str | float]] = [
        [f"{minutes:g}", *(values[key] for key in ("frames", "worker", "decoder", "both", "s"))]
        for minutes, values in found.items()
    ]
    short, long = (found[minutes]["both"] for minutes in lengths)
    return Result(
        "peak memory of scoring one video in one worker, in MB",
        ["minutes", "frames", "worker", "decoder", "together", "seconds"],
        rows,
        {"memory_long_to_short": long / short},
        {"mb_short": short, "mb_long": long},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        score(*sys.argv[2:])
        sys.exit()
    options = parser(__doc__)
    options.add_argument("--bundle", type=Path, help="score with this one [default: that of the demo, not trained]")
    options.add_argument("--video", type=Path, help="score this MP4, again and again [default: one made here]")
    options.add_argument("--fps", type=int, default=10, help="frames a second of the clip that is made")
    run("memory", measure, options)
