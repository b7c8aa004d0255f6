"""A planned video as a local file that a decoder can open: the file itself, or a scratch copy of the object."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import AccessDenied, NotFound, PreconditionFailed, StoreError, VideoError
from common.store import Store, StoreSettings, split_uri
from common.units import DENIED, MISSING, NOT_A_FILE, NOT_UTF8, Video

RESERVE_BYTES = 256 << 20  # left free on the scratch disk for what else is written there
_REFUSED = {
    MISSING: ("missing", "it was listed, but there was no such file"),
    DENIED: ("access_denied", "it was listed, but its storage does not let it be read"),
    NOT_A_FILE: ("unreadable", "it is a folder or a device, not a file"),
    NOT_UTF8: ("unreadable", "its name is not valid UTF-8: rename the file"),
}


@contextmanager
def fetch(video: Video, scratch: Path, settings: StoreSettings | None = None) -> Iterator[Path]:
    """The local path of `video` while the block lasts; a scratch copy is removed with it, whatever happens.

    VideoError: `missing`; `access_denied`; `changed` (it is not the planned version, or a local file was written to
    while in use: raised at the end of the block); `too_large` for the scratch disk. Storage that cannot be reached is
    a `StoreError`: not the video's fault.
    """
    if video.version in _REFUSED:
        raise VideoError(*_REFUSED[video.version])
    if not video.uri.startswith("s3://"):
        _check_unchanged(video)
        yield Path(video.uri)
        _check_unchanged(video)
        return
    path = _scratch_name(scratch)
    try:
        _download(video, path, settings)
        yield path
    finally:
        path.unlink(missing_ok=True)


class Prefetcher:
    """`fetch`, with the next video's download begun while the present one is decoded. At most one ahead."""

    def __init__(self, scratch: Path, settings: StoreSettings | None = None) -> None:
        self._scratch = scratch
        self._settings = settings
        self._ahead: _Download | None = None

    def begin(self, video: Video) -> None:
        """Begins to fetch `video`, in place of any other that was begun and not asked for."""
        if self._ahead is not None and self._ahead.video == video:
            return
        self.close()
        if video.uri.startswith("s3://") and video.version not in _REFUSED:
            self._ahead = _Download(video, _scratch_name(self._scratch), self._settings)

    @contextmanager
    def fetch(self, video: Video) -> Iterator[Path]:
        """As `fetch` above."""
        if self._ahead is None or self._ahead.video != video:
            with fetch(video, self._scratch, self._settings) as path:
                yield path
            return
        download, self._ahead = self._ahead, None
        with download as path:
            yield path

    def close(self) -> None:
        """Waits for a download that nobody asked for, and removes it."""
        if self._ahead is not None:
            with suppress(VideoError, StoreError), self._ahead:
                pass
            self._ahead = None


class _Download:
    """A download in a thread; the block has its path, and removes it."""

    def __init__(self, video: Video, path: Path, settings: StoreSettings | None) -> None:
        self.video = video
        self._path = path
        self._settings = settings
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            _download(self.video, self._path, self._settings)
        except Exception as error:  # raised where the video is asked for
            self._error = error

    def __enter__(self) -> Path:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def _scratch_name(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch / f"video-{uuid.uuid4().hex}"  # never made from a key, which may hold anything


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
    if f"{found.st_size}-{found.st_mtime_ns}" != video.version:
        raise VideoError("changed", "the file is not the version that was planned any more")
