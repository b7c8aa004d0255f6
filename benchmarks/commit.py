"""Commits of units of faces by one worker and by several, on local files and on S3; and crops compressed or not.

    python -m benchmarks.commit [--units 16] [--megabytes 20]

Units whose videos are all staged are committed by a pool's workers, as a job does it. MB are bytes of staged crops.
The S3 server runs on this machine, in one process of Python: it bounds how fast its commits can be. The second table
compares ways of storing the column `crop`: a part is written, and read whole.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support import clips, s3_server
from benchmarks.support.harness import Result, parser, run, side_by_side
from common.commit.committer import Committer
from common.commit.staging import Destination, Staging
from common.commit.units import LISTING, Unit, Video
from common.environment import Variable, temporary
from common.faces import FaceBatch, to_faces
from common.lake.layout import Lake
from common.run.local import LocalPool, cpus
from common.run.pool import PoolOptions
from common.run.worker import Commit, WorkerFactory
from ingest import job as ingest
from ingest.job import FacesProcessor, IngestConfig

VIDEOS_OF_UNIT = 4
REPEATED = ["video_id", "uri", "video_name"]
CODECS = {"plain": ("NONE", None), "zstd 1": ("ZSTD", 1), "zstd 3": ("ZSTD", 3)}  # of the column `crop`


def faces(frames: int) -> FaceBatch:
    """One face in each frame: crops of a synthetic one, with noise, as two equal ones would compress too well."""
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(picture, (112, 112)) for picture in clips.pictures(30)]
    crops = np.stack([cv2.add(pictures[n % 30], rng.integers(0, 4, (112, 112, 3), np.uint8)) for n in range(frames)])
    index = np.arange(frames, dtype=np.int32)
    return FaceBatch(
        frame_index=index,
        time_s=index / 30,
        duration_s=np.full(frames, 1 / 30),
        row=index,
        track_id=np.zeros(frames, np.int32),
        box=np.zeros((frames, 4), np.float32),
        landmarks=np.zeros((frames, 5, 2), np.float32),
        score=np.ones(frames, np.float32),
        yaw=np.zeros(frames, np.float32),
        sharpness=np.ones(frames, np.float32),
        status=np.full(frames, "ok"),
        crops=crops,
    )


def stage(destination: Destination, units: int, batch: FaceBatch) -> list[Unit]:
    """Units of which every video is finished, and none committed."""
    names = [f"/tapes/{unit:03d}/{video}.mp4" for unit in range(units) for video in range(VIDEOS_OF_UNIT)]
    rows = [{name: getattr(video, name) for name in LISTING.names} for video in (Video(uri, "v1", 9) for uri in names)]
    committer = Committer(destination)
    committer.plan.extend([pa.RecordBatch.from_pylist(rows, LISTING)], unit_videos=VIDEOS_OF_UNIT)
    planned = list(committer.pending())
    staging = Staging(destination)
    for video in (video for unit in planned for video in unit.videos):
        with staging.writer(video, "a1") as writer:
            writer.write(to_faces(batch, video))
            writer.finish(account(video, len(batch)))
    return planned


def account(video: Video, frames: int) -> dict[str, Any]:
    """The video's row of `videos`."""
    named = {name: getattr(video, name) for name in (*LISTING.names, "name")}
    counts = {"frames": frames, "frames_with_face": frames, "tracks": 1, "attempts": 1, "wall_s": 0.1}
    made = {"run_id": "r1", "code_version": "0", "finished_at": datetime.now(UTC)}
    return {"status": "ok", "video_name": named.pop("name")} | named | counts | made


def seconds(lake: str, workers: int, units: int, batch: FaceBatch) -> float:
    """How long so many workers take for the commits, once each of them runs."""
    config = IngestConfig()
    destination = ingest.destination(Lake(lake), "tapes", config)
    first, *others = np.array_split(np.array(stage(destination, units + workers, batch), object), [workers])
    with LocalPool(WorkerFactory(destination, FacesProcessor(config), "r1"), PoolOptions(workers)) as pool:
        for some in (first, *others):
            began = time.perf_counter()
            for unit in some:
                pool.submit(Commit(unit))
            done = sum(1 for _ in pool.map_parcels([], lambda frames: None))
            assert done == len(some)
    return time.perf_counter() - began


@contextmanager
def s3_lake() -> Iterator[str]:
    """A bucket of a server that lives as long as the block; the environment points at it."""
    port = s3_server.free_port()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {Variable(name, ""): value for name, value in s3_server.s3_environment(endpoint).items()}
    server = s3_server.start_s3_server(port)
    try:
        s3_server.make_bucket(endpoint, "lakes")
        with temporary(settings):
            yield "s3://lakes"
    finally:
        server.kill()
        server.wait()


def compressions(table: pa.Table, folder: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds for writing and for reading, and the size in bytes, with the crops compressed or not."""

    def write(codec: str) -> None:
        name, level = CODECS[codec]
        columns = table.schema.names
        codecs = dict.fromkeys(columns, "ZSTD") | {"crop": name}
        levels = {column: 3 for column in columns if column != "crop"} | ({"crop": level} if level else {})
        pq.write_table(table, folder / codec, compression=codecs, compression_level=levels, use_dictionary=REPEATED)

    def read(codec: str) -> None:
        with pq.ParquetFile(folder / codec) as part:
            for group in range(part.num_row_groups):
                part.read_row_group(group, use_threads=False)

    ways = {f"{way.__name__} {codec}": partial(way, codec) for way in (write, read) for codec in CODECS}
    took = side_by_side(ways, rounds, time.process_time)
    return took, {codec: float((folder / codec).stat().st_size) for codec in CODECS}


def measure(options: Namespace) -> Result:
    units, megabytes = (2, 1.0) if options.quick else (options.units, options.megabytes)
    crops = sum(map(len, to_faces(faces(30), Video("/a", "v", 1))["crop"].to_pylist())) / 30
    batch = faces(max(1, round(megabytes * 1e6 / crops / VIDEOS_OF_UNIT)))
    unit_mb = len(batch) * VIDEOS_OF_UNIT * crops / 1e6
    counts = [1] if options.quick else [workers for workers in (1, 2, 4) if workers <= cpus()]
    speed: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as name, s3_lake() as bucket:
        for where, root in (("local", name), ("s3", bucket)):
            for workers in counts:
                lake = f"{root}/{where}-{workers}"
                speed[where, workers] = units / seconds(lake, workers, units, batch)
        table = to_faces(batch, Video("/tapes/1.mp4", "v1", 9))
        took, size = compressions(table, Path(name), 1 if options.quick else 5)
    rows: list[list[str | float | None]] = [
        [f"{where}, {workers} workers", each, each * unit_mb] for (where, workers), each in speed.items()
    ]
    table_mb = table["crop"].nbytes / 1e6
    rows += [[f"{way} of crops, 1 CPU", None, table_mb / each] for way, each in took.items()]
    ratios = {
        f"{where}_{workers}_workers_to_1": each / speed[where, 1]
        for (where, workers), each in speed.items()
        if workers > 1
    }
    for codec in ("zstd 1", "zstd 3"):
        named = codec.replace(" ", "_")
        ratios[f"{named}_to_plain_size"] = size[codec] / size["plain"]
        ratios[f"{named}_to_plain_write_time"] = took[f"write {codec}"] / took["write plain"]
        ratios[f"{named}_to_plain_read_time"] = took[f"read {codec}"] / took["read plain"]
    figures = {f"{where}_{workers}_mb_s": each * unit_mb for (where, workers), each in speed.items()}
    return Result(f"commits of units of {unit_mb:.3g} MB", ["", "commits/s", "MB/s"], rows, ratios, figures)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--units", type=int, default=16, help="units that are committed")
    made.add_argument("--megabytes", type=float, default=20, help="bytes of crops in a unit")
    run("commit", measure, made)
