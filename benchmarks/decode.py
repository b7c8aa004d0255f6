"""Decoding side by side: PyAV and decord, bare in this process and through the sandbox; and memory over a long video.

    python -m benchmarks.decode [VIDEO] [--minutes 30]

Bare PyAV converts each frame to RGB on one thread, as the sandbox does; bare decord gets batches of 16. Best of three.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import decord
import psutil

from benchmarks.machine import DEMO_CLIP, machine
from ingest.decode import DecodeOptions, open_video

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
    parser = argparse.ArgumentParser()
    parser.add_argument("video", type=Path, nargs="?", default=DEMO_CLIP)
    parser.add_argument("--minutes", type=float, default=30, help="length of the video that memory is measured on")
    arguments = parser.parse_args()
    path: Path = arguments.video
    ways = {
        "pyav bare": bare_pyav,
        "pyav sandbox": sandboxed("pyav"),
        "decord bare": bare_decord,
        "decord sandbox": sandboxed("decord"),
    }
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        minute, long = Path(folder) / "minute.mkv", Path(folder) / "long.mkv"
        repeated(path, 60, minute)
        repeated(path, arguments.minutes * 60, long)
        print(f"{path.name}, one minute of it, frames/s")
        for name, decode in ways.items():
            figures[name.replace(" ", "_") + "_fps"] = speed = frames_per_s(decode, minute)
            print(f"  {name:16} {speed:8.0f}")
        print(f"peak memory in MB: one minute, {arguments.minutes:g} minutes (parent + child)")
        for decoder in ("pyav", "decord"):
            for length, video in (("minute", minute), ("long", long)):
                for side, peak in peaks(video, decoder).items():
                    figures[f"{decoder}_{length}_{side}"] = peak
            row = [
                figures[f"{decoder}_{length}_{side}_mb"]
                for length in ("minute", "long")
                for side in ("parent", "child")
            ]
            print(f"  {decoder:16} {row[0]:5.0f} + {row[1]:4.0f} {row[2]:9.0f} + {row[3]:4.0f}")
    ratios = {
        "sandbox_to_bare": figures["pyav_sandbox_fps"] / figures["pyav_bare_fps"],
        "pyav_to_decord": figures["pyav_sandbox_fps"] / figures["decord_sandbox_fps"],
        "memory_long_to_minute": (figures["pyav_long_parent_mb"] + figures["pyav_long_child_mb"])
        / (figures["pyav_minute_parent_mb"] + figures["pyav_minute_child_mb"]),
    }
    print(json.dumps({"benchmark": "decode", "ratios": ratios, "figures": figures, "machine": machine()}))


if __name__ == "__main__":
    main()
