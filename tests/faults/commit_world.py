"""A small world for the faults of the commit protocol: an archive that is a dict, workers that make rows from it.

Rows are a function of (uri, version), so what the tables must hold follows from the archive alone. Run as a script, it
is one run of a job, to be killed by `MIEN_FAULT`: `commit_world.py LAKE TABLE ARCHIVE.json [retry]`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.commit.committer import Committer
from common.commit.record import LedgerRecord
from common.commit.staging import Destination, Staging
from common.commit.units import LISTING, Unit, Video, video_id
from common.errors import CommitConflict, MienError, VideoError  # noqa: F401
from common.lake.layout import Lake, Partition
from common.lake.schema import FACES, SCORES
from common.store.base import StoreSettings

Archive = dict[str, str]  # uri -> version; versions that begin with "bad" cannot be decoded
UNIT_VIDEOS = 3


def destination(url: str, table: str = "scores") -> Destination:
    """Scores in one part per unit, faces in parts of four frames."""
    key, schema, step = {"scores": ("model", SCORES, None), "faces": ("ingest", FACES, 4)}[table]
    data = Partition(table, ((key, "demo-1"), ("archive", "clips")))
    config = {"window": 300} | ({"frames_per_part": step} if step else {})
    return Destination(Lake(url), data, data.videos, schema, config, step)


def listing(archive: Archive) -> Iterator[pa.RecordBatch]:
    for at in range(0, len(archive), 2):
        some = list(archive.items())[at : at + 2]
        columns = [[video_id(uri) for uri, _ in some], [uri for uri, _ in some], [v for _, v in some], [9] * len(some)]
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], LISTING
        )


def frames_of(uri: str, version: str) -> int:
    """3 to 14, or none if the video cannot be decoded."""
    return 0 if version.startswith("bad") else 3 + hashlib.sha256(f"{uri} {version}".encode()).digest()[0] % 12


def faces_of(uri: str, version: str) -> list[tuple[int, int | None]]:
    """(frame, track) of each row: no face in every third frame, two in every fourth."""
    rows: list[tuple[int, int | None]] = []
    for frame in range(frames_of(uri, version)):
        rows += [(frame, None)] if frame % 3 == 2 else [(frame, track) for track in range(1 + (frame % 4 == 3))]
    return rows


def rows_of(uri: str, version: str, table: str) -> pa.Table:
    schema = SCORES if table == "scores" else FACES
    value = float(int(hashlib.sha256(f"{uri} {version}".encode()).hexdigest()[:4], 16)) / 65536
    rows = []
    for frame, track in faces_of(uri, version):
        row = {"video_id": video_id(uri), "uri": uri, "video_name": uri.rpartition("/")[2], "track_id": track}
        row |= {"frame_index": frame, "time_s": frame / 25, "frame_duration_s": 1 / 25}
        row["face_status"] = "no_face" if track is None else "ok"
        if track is not None:
            row |= {f.name: value for f in schema if pa.types.is_float32(f.type)} | {"crop": b"jpeg"}
        rows.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(rows, schema=schema)


def videos_row(video: Video) -> dict[str, object]:
    frames = frames_of(video.uri, video.version)
    failed = {"status": "failed", "reason": "decode_error", "message": "no frame could be decoded"}
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "video_name": video.name,
        "version": video.version,
        "size": video.size,
        **({"status": "ok"} if frames else failed),
        "frames": frames,
        "frames_with_face": 0,
        "tracks": 0,
        "attempts": 1,
        "wall_s": 0.5,
        "run_id": "r1",
        "code_version": "0",
        "finished_at": datetime.now(UTC),
    }


def process(staging: Staging, video: Video, heal: bool = False) -> None:
    """What a worker does. `heal`: the video that could not be decoded now can, as version v."""
    attempt = uuid.uuid4().hex
    staging.strike(video, "r1", "node", attempt)
    seen = video.version.removeprefix("bad-") if heal else video.version
    if not frames_of(video.uri, seen):
        staging.fail(video, videos_row(video))
        return
    with staging.writer(video, attempt) as writer:
        rows = rows_of(video.uri, seen, staging.destination.data.table)
        writer.write(rows.slice(0, 2))
        writer.write(rows.slice(2))
        row = videos_row(Video(video.uri, seen, video.size, video.unit, video.revision))
        writer.finish(row | {"version": video.version})


@dataclass(frozen=True)
class WorldProcessor:
    """A processor of this world, and the recipe of one; its crops may be of any size."""

    table: str
    crop_bytes: int = 4

    def prepare(self) -> None:
        pass

    def __call__(self, settings: StoreSettings) -> WorldProcessor:
        return self

    def prefetch(self, video: Video) -> None:
        pass

    def process(
        self, video: Video, write: Callable[[pa.Table], None], beat: Callable[[int], None]
    ) -> dict[str, object]:
        if not frames_of(video.uri, video.version):
            raise VideoError("decode_error", "no frame could be decoded")
        rows = rows_of(video.uri, video.version, self.table)
        if self.table == "faces":
            crops = pa.array([crop and os.urandom(self.crop_bytes) for crop in rows["crop"].to_pylist()], pa.binary())
            rows = rows.set_column(rows.schema.get_field_index("crop"), rows.schema.field("crop"), crops)
        write(rows)
        beat(frames_of(video.uri, video.version))
        known = ("status", "frames", "frames_with_face", "tracks")
        return {name: value for name, value in videos_row(video).items() if name in known}


def stage(destination: Destination, unit: Unit, heal: bool = False) -> None:
    staging = Staging(destination)
    for video in unit.videos:
        if staging.outcome(video) is None:
            process(staging, video, heal)


def run(url: str, table: str, archive: Archive, *, retry: bool = False, heal: bool = False) -> list[LedgerRecord]:
    """A whole job, in one process."""
    committer = Committer(destination(url, table))
    committer.record_config()
    committer.plan.extend(listing(archive), unit_videos=UNIT_VIDEOS)
    if retry:
        committer.retry_failed()
    records = []
    for unit in committer.pending():
        stage(committer.destination, unit, heal)
        records.append(committer.commit(unit))
    return records


def run_in_child(*arguments: object, fault: str = "", **options: object) -> int:
    """`run` in a forked process; returns its exit status, -9 if it was killed."""
    return wait(start(run, *arguments, fault=fault, **options))


def start(function: object, *arguments: object, fault: str = "", **options: object) -> int:
    """Forks a process that calls `function`; returns its id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        os.environ["MIEN_FAULT"] = fault
        function(*arguments, **options)  # type: ignore[operator]
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until_stopped(pid: int) -> None:
    """Until the process has stopped itself at its fault point."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the process ended without reaching its fault point"


def resume(pid: int) -> int:
    os.kill(pid, signal.SIGCONT)
    return wait(pid)


def content(url: str, table: str) -> list[tuple[object, ...]]:
    """(uri, frame, track, value) of every row that a glob over the table sees, in order."""
    rows = []
    for part in _parts(url, table):
        for row in part.to_pylist():
            rows.append((row["uri"], row["frame_index"], row["track_id"], row["box_x0"]))
    return sorted(rows, key=repr)


def expected(archive: Archive, table: str) -> list[tuple[object, ...]]:
    """The same from the archive alone."""
    rows = []
    for uri, version in archive.items():
        for row in rows_of(uri, version, table).to_pylist():
            rows.append((row["uri"], row["frame_index"], row["track_id"], row["box_x0"]))
    return sorted(rows, key=repr)


def audit(url: str, table: str, archive: Archive, *, staging: bool = True) -> None:
    """The tables hold the archive, whole and once; `videos` and the ledger say the same; nothing else lies about."""
    assert content(url, table) == expected(archive, table)
    videos = [row for part in _parts(url, "videos") for row in part.to_pylist()]
    assert sorted((v["uri"], v["version"], v["frames"]) for v in videos) == sorted(
        (uri, version, frames_of(uri, version)) for uri, version in archive.items()
    )
    this = destination(url, table)
    store, lake = this.lake.store, this.lake
    keys = [entry.key for entry in store.list()]
    ledger = {key: LedgerRecord.from_json(store.read(key), key) for key in keys if key.startswith("_ledger/")}
    assert sorted(ledger) == sorted(lake.ledger_key(this.data, record.unit) for record in ledger.values())
    parts = {
        lake.part_key(this.data, record.unit, n if this.frames_per_part else None): record
        for record in ledger.values()
        for n in range(record.parts)
    }
    parts |= {lake.part_key(this.videos, record.unit): record for record in ledger.values()}
    assert sorted(parts) == [key for key in sorted(keys) if not key.startswith("_")]
    for key, record in parts.items():
        footer = pq.read_metadata(io.BytesIO(store.read(key))).metadata
        held = LedgerRecord.from_json(footer[b"mien.record"], key)
        assert held.same_rows(record)
        assert held.videos == record.videos
    if staging:
        assert [key for key in keys if key.startswith(("_staging/", "_strikes/"))] == []
    if store.is_local:
        assert [path for path in Path(url).rglob("*.tmp") if path.is_file()] == []


def _parts(url: str, table: str) -> Iterator[pa.Table]:
    store = Lake(url).store
    for entry in store.list(f"{table}/"):
        assert entry.key.endswith(".parquet"), entry.key
        yield pq.read_table(io.BytesIO(store.read(entry.key)))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text()), retry="retry" in sys.argv[4:])
