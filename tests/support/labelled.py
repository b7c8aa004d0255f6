"""Small pictures, clips and text files in the layouts of labelled datasets."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa

from ingest.datasets import registry
from ingest.datasets.dataset import Tally

Colour = tuple[int, int, int]


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), newline="")
    return path


def picture(path: Path, colour: Colour = (90, 90, 90), side: int = 32) -> Path:
    """One colour, RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((side, side, 3), colour[::-1], np.uint8))
    return path


def clip(path: Path, colours: Iterable[Colour]) -> Path:
    """An MP4 with a frame of each colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number, colour in enumerate(colours):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), colour, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def labels(dataset: str, root: Path) -> tuple[list[dict], Tally]:
    """The rows that the dataset's reader makes, and what it counted."""
    tally = Tally()
    return pa.concat_tables(registry.dataset(dataset).read(root, tally)).to_pylist(), tally
