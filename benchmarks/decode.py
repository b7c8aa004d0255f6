"""Decoding side by side: PyAV and decord, bare in this process and through the sandbox; and memory over a long video.

    python -m benchmarks.decode [VIDEO] [--minutes 30]

Bare PyAV converts each frame to RGB on one thread, as the sandbox does; bare decord gets batches of 16. Best of three.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import decord
import psutil

from benchmarks.machine import DEMO_CLIP, existing, last_line
from ingest.decode.reader import DecodeOptions, open_video

MB = 1 << 20
PEAK_EVERY_S = 0.05


def bare_pyav(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        return sum(1 for frame in container.decode(stream) if frame.reformat(format="rgb24", threads=1))


def bare_decord(path: Path) -> int:
    video = decord.VideoReader(str(path), num_threads=1)
    for start in range(0, len(video), 16):
        video.get_batch(range(start, min(start + 16, len(video)))).asnumpy()
    return len(video)


def sandboxed(decoder: str) -> Callable[[Path], int]:
    def decode(path: Path) -> int:
        with open_video(path, DecodeOptions(decoder=decoder)) as reader:
            return sum(len(batch) for batch in reader)

    return decode


def frames_per_s(decode: Callable[[Path], int], path: Path) -> float:
    speeds = []
    for _ in range(3):
        began = time.perf_counter()
        speeds.append(decode(path) / (time.perf_counter() - began))
    return max(speeds)


def repeated(path: Path, seconds: float, target: Path) -> None:
    """`path` as often as fills `seconds`, packets copied."""
    with av.open(str(target), "w") as out:
        shift, length_s, stream = 0, 0.0, None
        while length_s < seconds:
            with av.open(str(path)) as container:
                source = container.streams.best("video")
                stream = stream or out.add_stream_from_template(source)
                end = shift
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        end = max(end, packet.pts + packet.duration)  # before muxing, which changes the time base
                        packet.stream = stream
                        out.mux(packet)
                shift, length_s = end, float(end * source.time_base)


def peaks(path: Path, decoder: str) -> dict[str, float]:
    """Peak resident memory in MB of this process (beyond what it had) and of the child; shared frames count in both."""
    before, most, done = psutil.Process().memory_info().rss, [0, 0], threading.Event()
    with open_video(path, DecodeOptions(decoder=decoder)) as reader:
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
    return {"parent_mb": most[0] / MB, "child_mb": most[1] / MB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=existing, nargs="?", default=DEMO_CLIP)
    parser.add_argument("--minutes", type=float, default=30, help="length of the video that memory is measured on")
    arguments = parser.parse_args()
    path: Path = arguments.video
    ways = {
        "pyav bare": bare_pyav,
        "pyav sandbox": sandboxed("pyav"),
        "decord bare": bare_decord,
        "decord sandbox": sandboxed("decord"),
    }
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        minute, long = Path(folder) / "minute.mkv", Path(folder) / "long.mkv"
        repeated(path, 60, minute)
        repeated(path, arguments.minutes * 60, long)
        print(
            f"{path.name} repeated; peak memory of parent + child in MB, over 1 and over {arguments.minutes:g} minutes"
        )
        print(f"{'':16} {'frames/s':>8} {'MB, minute':>12} {'MB, long':>12}")
        for name, decode in ways.items():
            key = name.replace(" ", "_")
            figures[f"{key}_fps"] = frames_per_s(decode, minute)
            row = f"{name:16} {figures[f'{key}_fps']:8.0f}"
            if name.endswith("sandbox"):
                for length, video in (("minute", minute), ("long", long)):
                    peak = peaks(video, name.split()[0])
                    figures |= {f"{key}_{length}_{side}": value for side, value in peak.items()}
                    row += f" {peak['parent_mb']:5.0f} + {peak['child_mb']:4.0f}"
            print(row)

    def memory(length: str) -> float:
        return figures[f"pyav_sandbox_{length}_parent_mb"] + figures[f"pyav_sandbox_{length}_child_mb"]

    ratios = {
        "sandbox_to_bare": figures["pyav_sandbox_fps"] / figures["pyav_bare_fps"],
        "pyav_to_decord": figures["pyav_sandbox_fps"] / figures["decord_sandbox_fps"],
        "memory_long_to_minute": memory("long") / memory("minute"),
    }
    last_line("decode", ratios, figures)


if __name__ == "__main__":
    main()
