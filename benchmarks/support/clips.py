"""Videos for benchmarks: a synthetic face (`mien synth`), of any size and length."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from ingest.synth.clips import Clip, frames


def pictures(count: int, width: int = 640, height: int = 360) -> list[np.ndarray]:
    """`count` frames of one clip, uint8 [height, width, 3] each, RGB, enlarged to fill the picture."""
    made = []
    for picture, _ in islice(frames(Clip(number=0, frames=count, seed=0, held_out=False)), count):
        scale = max(width / picture.shape[1], height / picture.shape[0])
        large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        made.append(np.ascontiguousarray(large[:height, :width]))
    return made


def write(path: Path, frames_: list[np.ndarray], seconds: float, fps: int = 30) -> None:
    """Writes an H.264 video of this length that plays the pictures forwards and backwards in turn."""
    height, width = frames_[0].shape[:2]
    order = [*range(len(frames_)), *range(len(frames_) - 2, 0, -1)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(frames_[order[number % len(order)]], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def repeat(path: Path, seconds: float, target: Path) -> None:
    """Writes `path`, an MP4, repeated until it has `seconds`; packets are copied, not encoded again."""
    with av.open(str(target), "w") as out:
        shift, length_s, stream = 0, 0.0, None
        while length_s < seconds:
            with av.open(str(path)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                end = shift
                for packet in container.demux(source):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        end = max(end, packet.pts + (packet.duration or 0))  # muxing changes the packet's time base
                        packet.stream = stream
                        out.mux(packet)
                shift, length_s = end, float(end * source.time_base)
