"""A planned video as a local file: in place or a scratch copy, of the planned version or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from common.commit import units
from common.commit.units import Video
from common.errors import NotFound, VideoError
from common.store.store import Store
from ingest import archive, fetch
from ingest.fetch import Fetcher


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
    with pytest.raises(VideoError) as error, Fetcher(scratch).fetch(video):
        pytest.fail("the block must not be entered")
    assert not any(scratch.glob("*"))
    return error.value.reason


def test_local_file_is_opened_in_place(file: Path, scratch: Path) -> None:
    with Fetcher(scratch).fetch(planned(file)) as path:
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
        with Fetcher(scratch).fetch(planned(file)):
            os.truncate(file, 2)

    with pytest.raises(VideoError) as error:
        read()
    assert error.value.reason == "changed"


def test_an_error_of_the_block_is_not_hidden_by_a_change(file: Path, scratch: Path) -> None:
    def read() -> None:
        with Fetcher(scratch).fetch(planned(file)):
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
    with Fetcher(scratch).fetch(video) as path:
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


class Downloads:
    """In place of the store's download: counts, and can be told to take time or to find the disk full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        self.delay_s = 0.0
        monkeypatch.setattr(fetch.Store, "download", self)
        monkeypatch.setattr(fetch, "BEAT_S", 0.01)

    def __call__(self, key: str, path: Path, version: str) -> None:
        self.count[key] += 1
        for part in range(5):
            with path.open("ab") as file:
                file.write(key.encode() if part == 0 else b"")
            time.sleep(self.delay_s)
            os.truncate(path, len(key) + part)
        os.truncate(path, len(key))
        if version == "gone":
            path.unlink()
            raise NotFound("there is none")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    return Downloads(monkeypatch)


def objects(count: int, size: int = 1) -> list[Video]:
    return [Video(f"s3://bucket/{number}.mp4", "v", size) for number in range(count)]


def settled(scratch: Path, count: int) -> bool:
    deadline = time.monotonic() + 5
    while len(list(scratch.iterdir())) != count and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(list(scratch.iterdir())) == count


def test_every_object_is_downloaded_once_in_the_order_in_which_a_worker_asks(
    scratch: Path, downloads: Downloads
) -> None:
    fetcher, videos = Fetcher(scratch), objects(5)
    for video, following in zip(videos, [*videos[1:], None], strict=True):
        if following is not None:
            fetcher.begin(following)  # before the present one is asked for
        with fetcher.fetch(video) as path:
            assert path.read_text() == video.uri.rpartition("/")[2]
            assert settled(scratch, 1 if following is None else 2)  # the present one and the next
    assert downloads.count == {f"{number}.mp4": 1 for number in range(5)}
    assert not any(scratch.iterdir())


def test_next_object_may_also_be_named_while_the_present_one_is_in_use(scratch: Path, downloads: Downloads) -> None:
    fetcher, (first, second, third) = Fetcher(scratch), objects(3)
    with fetcher.fetch(first):
        fetcher.begin(second)
        assert settled(scratch, 2)
        fetcher.begin(third)  # another one after all
        assert settled(scratch, 2)
    with fetcher.fetch(third) as path:
        assert path.read_text() == "2.mp4"
    assert downloads.count == {"0.mp4": 1, "1.mp4": 1, "2.mp4": 1}
    assert not any(scratch.iterdir())


def test_object_that_is_passed_over_is_not_kept(scratch: Path, downloads: Downloads) -> None:
    fetcher, (first, second, third) = Fetcher(scratch), objects(3)
    fetcher.begin(second)
    with fetcher.fetch(first):
        pass
    fetcher.begin(third)  # and `second` turns out to be done already
    with fetcher.fetch(third) as path:
        assert path.read_text() == "2.mp4"
        assert settled(scratch, 1)


def test_object_that_is_asked_for_again_leaves_the_next_one_where_it_is(scratch: Path, downloads: Downloads) -> None:
    fetcher, (first, second) = Fetcher(scratch), objects(2)
    fetcher.begin(second)
    for _ in range(3):  # attempts
        with fetcher.fetch(first):
            pass
    with fetcher.fetch(second):
        pass
    assert downloads.count == {"0.mp4": 3, "1.mp4": 1}


def test_failure_of_a_download_ahead_is_raised_where_its_video_is_asked_for(
    scratch: Path, downloads: Downloads
) -> None:
    fetcher, (first,), gone = Fetcher(scratch), objects(1), Video("s3://bucket/gone.mp4", "gone", 1)
    fetcher.begin(gone)
    with fetcher.fetch(first):
        pass
    with pytest.raises(VideoError) as error, fetcher.fetch(gone):
        pytest.fail("the block must not be entered")
    assert error.value.reason == "missing"
    assert not any(scratch.iterdir())


def test_object_that_has_no_room_beside_the_present_one_has_it_afterwards(
    scratch: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> shutil._ntuple_diskusage:
        used = 60 * len(list(scratch.iterdir()))
        return shutil._ntuple_diskusage(100, used, fetch.RESERVE_BYTES + 100 - used)

    monkeypatch.setattr(fetch.shutil, "disk_usage", usage)
    fetcher, (first, second, third) = Fetcher(scratch), objects(3, size=60)
    fetcher.begin(second)
    with fetcher.fetch(first):
        time.sleep(0.05)
    fetcher.begin(third)
    with fetcher.fetch(second) as path:
        assert path.read_text() == "1.mp4"


def test_download_that_goes_on_shows_that_it_lives(scratch: Path, downloads: Downloads) -> None:
    downloads.delay_s = 0.05
    beats: list[int] = []
    with Fetcher(scratch).fetch(objects(1)[0], beats.append):
        assert len(beats) >= 2
    assert set(beats) == {0}


def test_local_files_need_no_fetching_ahead(file: Path, scratch: Path) -> None:
    fetcher = Fetcher(scratch)
    fetcher.begin(planned(file))
    with fetcher.fetch(planned(file)) as path:
        assert path == file
    assert not scratch.exists()
