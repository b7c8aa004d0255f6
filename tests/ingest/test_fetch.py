"""A planned video as a local file: in place or a scratch copy, of the planned version or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from common import units
from common.errors import VideoError
from common.store import Store
from common.units import Video
from ingest import archive, fetch


def planned(source: object) -> Video:
    row = next(archive.listing([str(source)])).to_pylist()[0]
    return Video(row["uri"], row["version"], row["size"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def reason_of(video: Video, scratch: Path) -> str:
    with pytest.raises(VideoError) as error, fetch.fetch(video, scratch):
        pytest.fail("the block must not be entered")
    assert not any(scratch.glob("*"))
    return error.value.reason


def test_local_file_is_opened_in_place(file: Path, scratch: Path) -> None:
    with fetch.fetch(planned(file), scratch) as path:
        assert path == file
    assert file.exists()


def test_local_file_that_changed_since_it_was_planned(file: Path, scratch: Path) -> None:
    video = planned(file)
    file.write_bytes(b"second")
    assert reason_of(video, scratch) == "changed"
    file.unlink()
    assert reason_of(video, scratch) == "missing"


def test_local_file_that_changes_while_it_is_read_is_told_at_the_end(file: Path, scratch: Path) -> None:
    def read() -> None:
        with fetch.fetch(planned(file), scratch):
            os.truncate(file, 2)

    with pytest.raises(VideoError) as error:
        read()
    assert error.value.reason == "changed"


def test_an_error_of_the_block_is_not_hidden_by_a_change(file: Path, scratch: Path) -> None:
    def read() -> None:
        with fetch.fetch(planned(file), scratch):
            file.unlink()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (units.MISSING, "missing"),
        (units.DENIED, "access_denied"),
        (units.NOT_A_FILE, "unreadable"),
        (units.NOT_UTF8, "unreadable"),
    ],
)
def test_what_could_not_be_listed_fails_with_its_reason(scratch: Path, version: str, reason: str) -> None:
    assert reason_of(Video("/nowhere/clip.mp4", version, 0), scratch) == reason


@pytest.mark.parametrize("key", ["clip.mp4", "a/.../b c?é\n%2f.mp4", "-rf", "k" * 900 + ".mp4"])
def test_object_is_a_scratch_copy_whose_name_owes_nothing_to_its_key(s3_url: str, scratch: Path, key: str) -> None:
    Store(s3_url).create(key, b"content")
    video = next(
        Video(f"{s3_url}/{entry.key}", entry.version, entry.size)
        for entry in Store(s3_url).list("")
        if entry.key == key
    )
    with fetch.fetch(video, scratch) as path:
        assert path.read_bytes() == b"content"
        assert path.parent == scratch
        assert len(path.name) < 50
    assert not any(scratch.iterdir())


def test_object_that_changed_or_went_since_it_was_planned(s3_url: str, scratch: Path) -> None:
    store = Store(s3_url)
    version = store.create("clip.mp4", b"first")
    video = planned(f"{s3_url}/clip.mp4")
    store.replace("clip.mp4", b"second", version)
    assert reason_of(video, scratch) == "changed"
    store.delete(["clip.mp4"])
    assert reason_of(video, scratch) == "missing"


def test_object_larger_than_the_scratch_disk(s3_url: str, scratch: Path) -> None:
    assert reason_of(Video(f"{s3_url}/huge.mp4", "v", 1 << 60), scratch) == "too_large"


def test_next_object_is_fetched_ahead_and_nothing_stays_behind(s3_url: str, scratch: Path) -> None:
    store = Store(s3_url)
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        store.create(name, name.encode())
    first, second, third = (planned(f"{s3_url}/{name}") for name in ("1.mp4", "2.mp4", "3.mp4"))
    ahead = fetch.Prefetcher(scratch)
    with ahead.fetch(first) as path:
        ahead.begin(second)
        deadline = time.monotonic() + 10
        while len(list(scratch.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(list(scratch.iterdir())) == 2
        assert path.read_bytes() == b"1.mp4"
    with ahead.fetch(second) as path:
        assert path.read_bytes() == b"2.mp4"
    ahead.begin(third)
    ahead.begin(first)  # another one after all
    ahead.close()
    assert not any(scratch.iterdir())


def test_failure_of_a_download_ahead_is_raised_where_its_video_is_asked_for(s3_url: str, scratch: Path) -> None:
    ahead = fetch.Prefetcher(scratch)
    gone = Video(f"{s3_url}/gone.mp4", "v", 1)
    ahead.begin(gone)
    with pytest.raises(VideoError) as error, ahead.fetch(gone):
        pytest.fail("the block must not be entered")
    assert error.value.reason == "missing"
    ahead.close()


def test_local_files_need_no_fetching_ahead(file: Path, scratch: Path) -> None:
    ahead = fetch.Prefetcher(scratch)
    ahead.begin(planned(file))
    with ahead.fetch(planned(file)) as path:
        assert path == file
    assert not scratch.exists()
