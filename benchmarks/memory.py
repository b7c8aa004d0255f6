"""Peak memory of decoding, detecting and scoring one video in one worker, beside its length.

A clip is repeated to 3 and to 30 minutes; each is scored in a process of its own, without Ray, and the resident memory
of the worker and of its decoder is sampled. `make demo` makes what is taken by default.

    python -m benchmarks.memory [--bundle B] [--clip C] [--fps 10]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import psutil

from benchmarks.machine import DEMO_BUNDLE, DEMO_CLIP, existing, last_line

MINUTES = (3, 30)


def repeat(clip: Path, out: Path, minutes: float, fps: int) -> None:
    """The clip over and over, at `fps` frames a second."""
    import av

    with av.open(str(clip)) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    height, width = frames[0].shape[:2]
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(int(minutes * 60 * fps)):
            frame = av.VideoFrame.from_ndarray(frames[number % len(frames)], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def score(bundle: str, path: str) -> None:
    """What a worker does with a video, less storage."""
    import torch

    from common.commit.units import Video
    from score.job import ScoreConfig, ScoreProcessor

    torch.set_num_threads(1)
    video = Path(path)
    stat = video.stat()
    processor = ScoreProcessor(bundle, ScoreConfig(), None)()
    rows = 0

    def write(table: object) -> None:
        nonlocal rows
        rows += len(table)  # type: ignore[arg-type]

    row = processor.process(Video(path, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size), write, lambda frames: None)
    print(json.dumps({"frames": row["frames"], "rows": rows}))


def measure(bundle: Path, video: Path) -> dict[str, float]:
    """MB resident at the peak: of the worker, of its decoder, of both at once; and how long it took."""
    started = time.monotonic()
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
            time.sleep(0.05)

    watcher = threading.Thread(target=sample)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"scoring {video} failed")
    return {name: peak / 1e6 for name, peak in peaks.items()} | json.loads(out) | {"s": time.monotonic() - started}


def main() -> None:
    if sys.argv[1:2] == ["--score"]:
        score(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=existing, default=DEMO_BUNDLE)
    parser.add_argument("--clip", type=existing, default=DEMO_CLIP)
    parser.add_argument("--fps", type=int, default=10)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in MINUTES:
            video = Path(folder) / f"{minutes}.mp4"
            repeat(arguments.clip, video, minutes, arguments.fps)
            found[minutes] = measure(arguments.bundle.absolute(), video)
    print(f"{'minutes':>8} {'frames':>8} {'worker MB':>10} {'decoder MB':>11} {'together MB':>12} {'s':>7}")
    for minutes, peak in found.items():
        print(
            f"{minutes:>8} {peak['frames']:>8} {peak['worker']:>10.0f} {peak['decoder']:>11.0f} {peak['both']:>12.0f}"
            f" {peak['s']:>7.0f}"
        )
    short, long = (found[minutes]["both"] for minutes in MINUTES)
    figures = {f"mb_{minutes}_min": found[minutes]["both"] for minutes in MINUTES}
    last_line("memory", {f"memory_{MINUTES[1]}_to_{MINUTES[0]}_min": long / short}, figures)


if __name__ == "__main__":
    main()
