"""A lake of another format is refused in one sentence, by every command and before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lakes import put_part, sample_rows

from common.cli import main
from common.errors import UsageError
from common.lake.format import FORMAT, KEY, check, check_existing, check_writable, claim
from common.lake.layout import Lake
from common.store.store import Store


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3_url"))


@pytest.fixture
def old(tmp_path: Path) -> Lake:
    """A lake of the version that did not state the format."""
    lake = Lake(str(tmp_path / "old"))
    put_part(lake, "scores", "u1", sample_rows("scores", 3))
    lake.store.delete([KEY])
    return lake


def test_the_first_claim_states_the_format_and_later_ones_write_nothing(lake: Lake) -> None:
    check(lake)
    assert list(lake.store.list()) == []
    claim(lake)
    before = list(lake.store.list())
    assert [json.loads(lake.store.read(entry.key)) for entry in before] == [{"format": FORMAT}]
    claim(lake)
    check(lake)
    assert list(lake.store.list()) == before


def test_a_lake_that_is_in_order_costs_one_request(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(lake)
    for name in ("list", "create", "stat"):
        monkeypatch.setattr(Store, name, lambda *given, **more: pytest.fail("another request"))
    claim(lake)
    check(lake)


@pytest.mark.parametrize("table", ["scores/schema=1/x", "faces/x", "videos/x", "labels/x", "_plans/scores/x"])
def test_tables_or_plans_without_a_statement_are_of_an_earlier_version(lake: Lake, table: str) -> None:
    lake.store.create(table, b"x")
    for refuse in (check, claim, check_existing):
        with pytest.raises(UsageError, match=r"earlier version of mien .* name a new lake"):
            refuse(lake)
    assert [entry.key for entry in lake.store.list()] == [table]


def test_files_of_others_make_no_lake(lake: Lake) -> None:
    lake.store.create("notes/readme.txt", b"x")
    claim(lake)


def test_another_format_is_refused(lake: Lake) -> None:
    lake.store.create(KEY, json.dumps({"format": FORMAT + 1}).encode())
    with pytest.raises(UsageError, match="later version of mien"):
        claim(lake)


def test_a_job_that_begins_the_lake_at_the_same_time_is_no_earlier_version(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for the statement and the look for tables, another job puts both."""
    listing = Store.list

    def begun(self: Store, prefix: str = ""):
        monkeypatch.setattr(Store, "list", listing)
        claim(lake)
        self.create("_plans/scores/x", b"x")
        return listing(self, prefix)

    monkeypatch.setattr(Store, "list", begun)
    claim(lake)


def test_the_check_before_a_job_writes_nothing(lake: Lake) -> None:
    check_writable(lake)
    claim(lake)
    before = list(lake.store.list())
    check_writable(lake)
    assert list(lake.store.list()) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("place", ["file", "file/lake"])
def test_a_job_refuses_a_lake_that_is_a_file_also_when_it_would_only_plan(
    place: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    assert main(["ingest", str(tmp_path / "a.mp4"), "--lake", str(tmp_path / place), *more]) == 2
    assert f"mien: {tmp_path}/file is not a folder: name another place" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["status", "LAKE"],
        ["sql", "LAKE", "SELECT 1"],
        ["reconcile", "LAKE"],
        ["label", "synth", "VIDEOS", "--lake", "LAKE"],
        ["ingest", "VIDEOS", "--lake", "LAKE"],
        ["ingest", "VIDEOS", "--lake", "LAKE", "--dry-run"],
    ],
    ids=" ".join,
)
def test_commands_refuse_a_lake_of_an_earlier_version(
    command: list[str], old: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    before = list(old.store.list())
    places = {"LAKE": old.url, "VIDEOS": str(tmp_path / "videos")}
    assert main([places.get(word, word) for word in command]) == 2
    assert f"the lake {old.url} was made by an earlier version of mien" in capsys.readouterr().err
    assert list(old.store.list()) == before


def test_no_lake_is_said_before_its_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no lake"):
        check_existing(Lake(str(tmp_path / "nowhere")))
