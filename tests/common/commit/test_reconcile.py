"""`mien reconcile`: a lake's ledger and tables say the same, or the command says what does not."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakes import account, listing

from common.cli import main
from common.commit.committer import Committer
from common.commit.staging import Destination, Staging
from common.commit.units import Video
from common.lake.format import claim
from common.lake.layout import Lake, Partition
from common.lake.schema import FACES

DATA = Partition("faces", (("ingest", "i-1"), ("archive", "clips")))
URIS = [f"/tapes/{n}.mp4" for n in range(4)]


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Four ingested videos of six frames, in two units of two parts."""
    lake = Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))
    committer = Committer(Destination(lake, DATA, DATA.videos, FACES, {"frames_per_part": 3}, 3))
    claim(lake)
    committer.record_config()
    committer.plan.extend([listing(Video(uri, "1", 1) for uri in URIS)], unit_videos=2)
    for unit in committer.pending():
        for video in unit.videos:
            with Staging(committer.destination).writer(video, "a") as writer:
                frames = [
                    {
                        "video_id": video.video_id,
                        "uri": video.uri,
                        "video_name": video.name,
                        "frame_index": n,
                        "time_s": n,
                        "frame_duration_s": 1,
                        "face_status": "no_face",
                    }
                    for n in range(6)
                ]
                writer.write(pa.Table.from_pylist(frames, FACES))
                writer.finish(account(video, status="ok", frames=6))
        committer.commit(unit)
    return lake


def objects(lake: Lake) -> dict[str, bytes]:
    return {entry.key: lake.store.read(entry.key) for entry in lake.store.list()}


def keys(lake: Lake, prefix: str) -> list[str]:
    return sorted(entry.key for entry in lake.store.list(prefix))


def reconcile(lake: Lake, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    status = main(["reconcile", lake.url, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_lake_that_is_in_order_stays_as_it_is(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    before = objects(lake)
    expected = {"lake": lake.url, "units": 2, "mended": 0, "cleaned": 0, "problems": []}
    assert reconcile(lake, capsys) == (0, expected)
    assert objects(lake) == before


def test_lost_ledger_records_and_outcomes_are_made_from_the_parts(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    before = objects(lake)
    (first, _), (_, last) = keys(lake, "_ledger/"), keys(lake, "videos/")
    lake.store.delete([first, last])
    status, summary = reconcile(lake, capsys)
    assert (status, summary["mended"]) == (0, 2)
    after = objects(lake)
    assert after[first] == before[first]
    assert pq.read_table(io.BytesIO(after[last])) == pq.read_table(io.BytesIO(before[last]))


@pytest.mark.parametrize("n", [0, 1])
def test_a_part_that_is_gone_is_named_and_nothing_else_is_touched(
    lake: Lake, capsys: pytest.CaptureFixture[str], n: int
) -> None:
    gone = keys(lake, "faces/")[n]
    lake.store.delete([gone])
    before = objects(lake)
    status, summary = reconcile(lake, capsys)
    (problem,) = summary["problems"]  # type: ignore[misc]
    assert status == 1
    assert gone.rpartition("part-")[2].partition("-")[0] in problem
    assert "restore it from a copy" in problem
    assert objects(lake) == before


@pytest.mark.parametrize("content", [b"not JSON", b"[]", b'{"unit": "u"}'])
def test_a_damaged_ledger_record_is_named_and_the_other_units_are_mended(
    lake: Lake, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    before = objects(lake)
    damaged, lost = keys(lake, "_ledger/")
    version = lake.store.stat(damaged).version  # type: ignore[union-attr]
    lake.store.replace(damaged, content, version)
    lake.store.delete([lost])
    status, summary = reconcile(lake, capsys)
    (problem,) = summary["problems"]  # type: ignore[misc]
    assert status == 1
    assert problem.startswith(f"{damaged} does not hold the record of a unit")
    lake.store.delete([damaged])
    assert reconcile(lake, capsys)[0] == 0, "the advice is right"
    assert objects(lake) == before


def test_a_lost_configuration_is_named(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.store.delete([lake.config_key(DATA)])
    status, summary = reconcile(lake, capsys)
    assert status == 1
    assert summary["problems"] == [f"{lake.config_key(DATA)} is gone: restore it from a copy, or run the job again"]


def test_what_killed_jobs_left_of_committed_units_goes(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    video = Committer(Destination.of(lake, DATA)).plan
    video.load()
    ours = video.units()[0].videos[0]
    Staging(Destination.of(lake, DATA)).strike(ours, "r", "node", "late")
    if lake.store.is_local:
        temporary = Path(lake.url) / "faces" / ".mien-1.tmp"
        temporary.write_bytes(b"half")
        os.utime(temporary, (0, 0))
    assert reconcile(lake, capsys)[1]["cleaned"] == 1
    assert keys(lake, "_strikes/") == []
    assert not lake.store.is_local or not temporary.exists()


def test_in_words_only_what_was_done_is_told(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        main(["reconcile", lake.url])
        return capsys.readouterr().err.splitlines()[-1]

    assert said() == "2 units: all in order"
    plan = Committer(Destination.of(lake, DATA)).plan
    plan.load()
    Staging(Destination.of(lake, DATA)).strike(plan.units()[0].videos[0], "r", "node", "late")
    lake.store.delete([keys(lake, "_ledger/")[0]])
    assert said() == "2 units: 1 mended, what killed jobs left of 1 removed"


def test_no_lake_is_wrong_usage(tmp_path: Path) -> None:
    assert main(["reconcile", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()
