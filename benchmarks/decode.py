"""Decoding by PyAV and by decord, directly in this process and through the sandbox; and memory over a long video.

    python -m benchmarks.decode [--video FILE] [--minutes 30]

"Bare" means in this process: PyAV converts each frame to RGB on one thread, as the sandbox does; decord reads batches
of 16.
"""

from __future__ import annotations

import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import av
import psutil

from benchmarks.support import clips
from benchmarks.support.harness import Result, parser, run, side_by_side
from ingest.decode.reader import DecodeOptions, open_video

MB = 1 << 20
PEAK_EVERY_S = 0.05


def bare_pyav(path: Path) -> int:
    """Each of these decodes the whole video and returns how many frames it has."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for frame in container.decode(stream) if frame.reformat(format="rgb24", threads=1))


def bare_decord(path: Path) -> int:
    import decord  # only after the clip is made: it loads a zlib with which OpenCV cannot read a PNG

    video = decord.VideoReader(str(path), num_threads=1)
    for start in range(0, len(video), 16):
        video.get_batch(range(start, min(start + 16, len(video)))).asnumpy()
    return len(video)


def sandboxed(decoder: str, path: Path) -> int:
    with open_video(path, DecodeOptions.model_validate({"decoder": decoder})) as reader:
        return sum(len(batch) for batch in reader)


def peaks(path: Path, decoder: str) -> dict[str, float]:
    """Peak resident memory in MB of this process (beyond what it had) and of the child; shared frames count in both."""
    before, most, done = psutil.Process().memory_info().rss, [0, 0], threading.Event()
    with open_video(path, DecodeOptions.model_validate({"decoder": decoder})) as reader:
        child = psutil.Process(reader.pid)

        def watch() -> None:
            while not done.wait(PEAK_EVERY_S):
                most[0] = max(most[0], psutil.Process().memory_info().rss - before)
                with suppress(psutil.NoSuchProcess):
                    most[1] = max(most[1], child.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in reader:
                pass
        finally:
            done.set()
            watcher.join()
    return {"parent": most[0] / MB, "child": most[1] / MB}


def measure(options: Namespace) -> Result:
    minutes = 0.1 if options.quick else options.minutes
    ways: dict[str, Callable[[Path], int]] = {
        "pyav bare": bare_pyav,
        "pyav sandbox": partial(sandboxed, "pyav"),
        "decord bare": bare_decord,
        "decord sandbox": partial(sandboxed, "decord"),
    }
    with tempfile.TemporaryDirectory() as folder:
        clip, short, long = (Path(folder) / name for name in ("clip.mp4", "short.mkv", "long.mkv"))
        if options.video is None:
            clips.write(clip, clips.pictures(15 if options.quick else 150), 1 if options.quick else 10)
        clips.repeat(options.video or clip, 2 if options.quick else 60, short)
        clips.repeat(options.video or clip, minutes * 60, long)
        memory = {  # first, while this process is small
            decoder: {length: peaks(path, decoder) for length, path in (("short", short), ("long", long))}
            for decoder in ("pyav", "decord")
        }
        frames = bare_pyav(short)
        seconds = side_by_side({name: partial(way, short) for name, way in ways.items()}, 1 if options.quick else 3)
        fps = {name: frames / each for name, each in seconds.items()}
    return _result(fps, memory, f"frames/s, and peak memory of parent + child in MB, the long video {minutes:g} min")


def _result(fps: dict[str, float], memory: dict[str, dict[str, dict[str, float]]], title: str) -> Result:
    both = {
        decoder: {length: sum(peak.values()) for length, peak in lengths.items()} for decoder, lengths in memory.items()
    }
    rows = []
    for name, speed in fps.items():
        decoder, _, where = name.partition(" ")
        held = both[decoder].values() if where == "sandbox" else (None, None)
        rows.append([name, speed, *held])
    figures = {f"{name.replace(' ', '_')}_fps": speed for name, speed in fps.items()} | {
        f"{decoder}_{length}_{side}_mb": value
        for decoder, lengths in memory.items()
        for length, peak in lengths.items()
        for side, value in peak.items()
    }
    ratios = {
        "sandbox_to_bare": fps["pyav sandbox"] / fps["pyav bare"],
        "pyav_to_decord": fps["pyav sandbox"] / fps["decord sandbox"],
        "memory_long_to_short": both["pyav"]["long"] / both["pyav"]["short"],
    }
    return Result(title, ["decoder", "frames/s", "MB short", "MB long"], rows, ratios, figures)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--video", type=Path, help="decode this MP4, again and again [default: one made here]")
    options.add_argument("--minutes", type=float, default=30, help="length of the long video")
    run("decode", measure, options)
