"""A lake of faces that were never ingested: many small pictures, in parts as `mien ingest` writes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from common.commit.units import video_id
from common.lake.format import claim
from common.lake.layout import Lake, Partition
from common.lake.parts import PartWriter
from common.lake.schema import FACES

ARCHIVE = "pictures"
_PARTITION = Partition("faces", (("ingest", "i-benchmark"), ("archive", ARCHIVE)))
_KINDS = 64  # different pictures
_OF_A_VIDEO = 1_000  # faces
_OF_A_PART = 50_000


def jpegs(side: int) -> list[bytes]:
    """Different pictures of soft shapes with some grain, side x side px, as stored crops are compressed."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(_KINDS):
        soft = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        made.append(simplejpeg.encode_jpeg(cv2.add(soft, rng.integers(0, 12, soft.shape, np.uint8)), 95, "RGB", "444"))
    return made


def lake(folder: Path, count: int, side: int) -> Lake:
    """A lake in the folder with so many faces, side x side px."""
    made, pictures = Lake(str(folder)), jpegs(side)
    claim(made)
    for unit, first in enumerate(range(0, count, _OF_A_PART)):
        with tempfile.TemporaryDirectory() as scratch:
            part = Path(scratch) / "part.parquet"
            with PartWriter(part, FACES, {}) as writer:
                for start in range(first, min(first + _OF_A_PART, count), _OF_A_VIDEO):
                    writer.write(_video(start, min(_OF_A_VIDEO, count - start), pictures))
            made.store.create(made.part_key(_PARTITION, f"u{unit:06d}", 0), part)
        made.store.create(made.ledger_key(_PARTITION, f"u{unit:06d}"), b"{}")
    return made


def _video(first: int, count: int, pictures: list[bytes]) -> pa.Table:
    """A video with a face in each frame, of the pictures from number `first` on."""
    uri = f"/v/{first:09d}.mp4"
    rows = np.arange(count)
    known = {
        "video_id": pa.repeat(video_id(uri), count),
        "uri": pa.repeat(uri, count),
        "video_name": pa.repeat(f"{first:09d}.mp4", count),
        "frame_index": pa.array(rows, pa.int32()),
        "face_status": pa.repeat("ok", count),
        "crop": pa.array([pictures[(first + row) % _KINDS] for row in rows.tolist()], pa.binary()),
    }
    zeros = pa.array(np.zeros(count))
    columns = [known[field.name] if field.name in known else zeros.cast(field.type) for field in FACES]
    return pa.table(columns, schema=FACES)
