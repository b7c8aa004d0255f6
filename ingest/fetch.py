"""Gives a planned video as a local file that a decoder can open: the file itself, or a temporary copy of the object."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.commit.units import DENIED, MISSING, NOT_A_FILE, NOT_UTF8, Video
from common.errors import AccessDenied, NotFound, PreconditionFailed, VideoError
from common.store.base import StoreSettings, file_version
from common.store.store import Store
from common.store.uris import split_uri

RESERVE_BYTES = 256 << 20  # left free on the disk of temporary files
BEAT_S = 5.0
_REFUSED = {
    MISSING: ("missing", "it was listed, but no file is there; lists hold paths and s3:// URIs"),
    DENIED: ("access_denied", "it was listed, but its storage does not let it be read"),
    NOT_A_FILE: ("unreadable", "it is a folder or a device, not a file"),
    NOT_UTF8: ("unreadable", "its name is not valid UTF-8: rename the file"),
}

Beat = Callable[[int], None]


class Fetcher:
    """Gives videos as local files, one at a time, and downloads the next one while the current one is in use.

    A local file is opened in place. At most two temporary copies are on the disk, and one download runs at a time.
    """

    def __init__(self, scratch: Path, settings: StoreSettings | None = None) -> None:
        self._scratch = scratch
        self._settings = settings
        self._in_use = False
        self._next: Video | None = None
        self._ahead: _Download | None = None

    def begin(self, video: Video) -> None:
        """Names the next video. Its download begins once the current video is complete.

        May be called before the current video is fetched or while it is in use; the last call counts.
        """
        self._next = video
        if self._in_use:
            self._begin_next()

    @contextmanager
    def fetch(self, video: Video, beat: Beat = lambda frames: None) -> Iterator[Path]:
        """The local path of `video` for the block; a temporary copy is removed after it, even on an error.

        `beat(0)` is called every few seconds while the download makes progress. Raises VideoError: `missing`;
        `access_denied`; `changed` (it is not the planned version, or a local file was written to while in use, which is
        raised at the end of the block); `too_large` for the disk. Raises `StoreError` if the storage cannot be reached.
        """
        if video.version in _REFUSED:
            raise VideoError(*_REFUSED[video.version])
        with self._remote(video, beat) if _is_remote(video) else _in_place(video) as path:
            self._in_use = True
            try:
                self._begin_next()
                yield path
            finally:
                self._in_use = False

    def close(self) -> None:
        """Waits for the prefetch, if there is one, and removes its file."""
        if self._ahead is not None:
            self._ahead.remove()
            self._ahead = None

    @contextmanager
    def _remote(self, video: Video, beat: Beat) -> Iterator[Path]:
        if self._next == video:
            self._next = None
        download = self._taken(video) or _Download(video, self._scratch, self._settings)
        if download.wait(beat) is not None:
            # The prefetched file may have filled the disk: remove it and try once more.
            self.close()
            download = _Download(video, self._scratch, self._settings)
            if error := download.wait(beat):
                raise error
        try:
            yield download.path
        finally:
            download.remove()

    def _taken(self, video: Video) -> _Download | None:
        """The prefetch, if it is of `video`. A prefetch of a video that was skipped is removed."""
        ahead = self._ahead
        if ahead is not None and ahead.video == video:
            self._ahead = None
            return ahead
        if ahead is not None and ahead.video != self._next:
            self.close()
        return None

    def _begin_next(self) -> None:
        if self._next is None or (self._ahead is not None and self._ahead.video == self._next):
            return
        self.close()
        if _is_remote(self._next) and self._next.version not in _REFUSED:
            self._ahead = _Download(self._next, self._scratch, self._settings)


class _Download:
    """The download of an object to a temporary file, in a thread."""

    def __init__(self, video: Video, scratch: Path, settings: StoreSettings | None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.video = video
        self.path = scratch / f"video-{uuid.uuid4().hex}"  # not named after the key, which may hold any character
        self._settings = settings
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            _download(self.video, self.path, self._settings)
        except Exception as error:  # `fetch` raises it
            self._error = error

    def wait(self, beat: Beat) -> Exception | None:
        """Waits for the end of the download, calls `beat(0)` while the file grows, and returns the error, if any."""
        before = 0
        while self._thread.is_alive():
            self._thread.join(BEAT_S)
            with suppress(FileNotFoundError):
                if (size := self.path.stat().st_size) != before:
                    beat(0)
                before = size
        return self._error

    def remove(self) -> None:
        self._thread.join()
        self.path.unlink(missing_ok=True)


def _is_remote(video: Video) -> bool:
    return video.uri.startswith("s3://")


@contextmanager
def _in_place(video: Video) -> Iterator[Path]:
    _check_unchanged(video)
    yield Path(video.uri)
    _check_unchanged(video)


def _download(video: Video, path: Path, settings: StoreSettings | None) -> None:
    free = shutil.disk_usage(path.parent).free - RESERVE_BYTES
    if video.size > free:
        room = f"{video.size} bytes do not fit on the scratch disk, {max(0, free)} are free in {path.parent}"
        raise VideoError("too_large", room)
    root, key = split_uri(video.uri)
    try:
        Store(root, settings).download(key, path, video.version)
    except NotFound:
        raise VideoError("missing", "the object is not there any more") from None
    except AccessDenied:
        raise VideoError("access_denied", "the storage does not let this object be read") from None
    except PreconditionFailed:
        raise VideoError("changed", "the object is not the version that was planned any more") from None


def _check_unchanged(video: Video) -> None:
    try:
        found = os.stat(video.uri)
    except FileNotFoundError:
        raise VideoError("missing", "the file is not there any more") from None
    except PermissionError:
        raise VideoError("access_denied", "the folder of the file may not be read") from None
    except (OSError, ValueError) as error:
        raise VideoError("missing", f"the file cannot be looked at: {error}") from None
    if file_version(found) != video.version:
        raise VideoError("changed", "the file is not the version that was planned any more")
