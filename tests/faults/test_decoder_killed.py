"""A decoder that somebody kills in mid-video: once is no harm to the video, always is a reason for it to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.commit.record import Outcome
from common.commit.units import Video
from common.lake.layout import Lake
from common.run.worker import STRIKES, Parcel, Worker
from common.store.base import file_version
from common.store.store import Store
from ingest.cuts import FAR
from ingest.decode.reader import RING_SLOTS, DecodeOptions
from ingest.faces import FacesOptions
from ingest.job import FacesProcessor, IngestConfig, destination
from ingest.synth.clips import Clip, frames

pytestmark = pytest.mark.slow

BATCH = 8
# A decoder cannot give them all before the first are done with, which wait for the frames that cuts are judged by.
FRAMES = (RING_SLOTS + 2) * BATCH + 2 * FAR


@dataclass(frozen=True)
class ThisNode:
    id: str = "n1"

    def living(self) -> set[str]:
        return {self.id}


_bystanders: set[int] = set()


@pytest.fixture(autouse=True)
def _children_of_others() -> None:
    _bystanders.clear()
    _bystanders.update(child.pid for child in psutil.Process().children())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face in every frame."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number, (picture, _) in enumerate(frames(Clip(number=0, frames=FRAMES, seed=0, held_out=False))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Ingest:
    """A worker that ingests the clip; `on_frames` is called whenever frames are done."""

    def __init__(self, clip: Path, root: Path, decoder: str = "pyav") -> None:
        decode = DecodeOptions.model_validate({"decoder": decoder, "batch_frames": BATCH})
        config = IngestConfig(faces=FacesOptions(decode=decode))
        self.worker = Worker(destination(Lake(str(root)), "a", config), FacesProcessor(config), "r1", ThisNode())
        found = clip.stat()
        self.video = Video(str(clip), file_version(found), found.st_size, unit="u1")

    def run(self, on_frames: Callable[[], None]) -> Outcome:
        self.worker(Parcel((self.video,)), lambda where, frames: on_frames() if frames else None)
        outcome = self.worker.staging.outcome(self.video)
        assert outcome is not None
        return outcome

    def rows(self, outcome: Outcome) -> list[dict[str, Any]]:
        store: Store = self.worker.destination.lake.store
        keys = [self.worker.staging.piece_key(self.video, outcome.attempt, n) for n in outcome.pieces]
        return [row for key in keys for row in pq.read_table(pa.BufferReader(store.read(key))).to_pylist()]


def kill_the_decoder() -> None:
    """It may be dead already, and not yet be missed. Servers of other tests are children of this process, too."""
    (decoder,) = (child for child in psutil.Process().children() if child.pid not in _bystanders)
    decoder.kill()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_decoder_killed_once_in_mid_video_changes_no_row(clip: Path, tmp_path: Path, decoder: str) -> None:
    left_alone = Ingest(clip, tmp_path / "quiet", decoder)
    expected = left_alone.run(lambda: None)
    assert (expected.row["status"], expected.row["frames"], expected.row["attempts"]) == ("ok", FRAMES, 1)

    disturbed = Ingest(clip, tmp_path / "disturbed", decoder)
    kills = iter([kill_the_decoder])
    outcome = disturbed.run(lambda: next(kills, lambda: None)())
    assert outcome.row["attempts"] == 2
    same = ("status", "reason", "frames", "frames_with_face", "tracks", "duration_s", "decoder")
    assert {key: outcome.row[key] for key in same} == {key: expected.row[key] for key in same}
    assert disturbed.rows(outcome) == left_alone.rows(expected)
    assert len({row["frame_index"] for row in disturbed.rows(outcome)}) == FRAMES


def test_a_decoder_that_is_killed_each_time_is_memory_limit_after_bounded_attempts(clip: Path, tmp_path: Path) -> None:
    row = Ingest(clip, tmp_path).run(kill_the_decoder).row
    assert (row["status"], row["reason"], row["attempts"], row["frames"]) == ("failed", "memory_limit", STRIKES, 0)
    assert row["message"].endswith("3 attempts were made")
