"""Local files behind the `Store`: create-only by a hard link, conditional replace by a rename under a lock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from common.disk import speaking
from common.errors import PreconditionFailed, StoreError, UsageError
from common.store.base import Entry, file_version

OURS = ".mien-"  # temporary and lock files: never listed
LOCK_PATIENCE_S = 60
SWEEP_AGE_S = 86_400
_CHUNK = 8 << 20


class LocalFiles:
    """`root` is an absolute path; a version is `<size>-<mtime_ns>`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def list(self, prefix: str) -> Iterator[Entry]:
        folder, _, start = prefix.rpartition("/")
        with speaking("list", self._path(folder)):
            yield from self._walk(folder, start)

    def _walk(self, folder: str, start: str) -> Iterator[Entry]:
        try:
            entries = os.scandir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        folders = []
        with entries:
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if not entry.name.startswith(start) or entry.name.startswith(OURS):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(key)
                    continue
                try:
                    if entry.is_file():
                        yield _entry(key, entry.stat())
                except FileNotFoundError:
                    continue  # deleted meanwhile, or a link to nothing
        for key in folders:
            yield from self._walk(key, "")

    def stat(self, key: str) -> Entry | None:
        with speaking("look at", self._path(key)):
            try:
                found = os.stat(self._path(key))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _entry(key, found) if os.path.isfile(self._path(key)) else None

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        with speaking("read", self._path(key)), open(self._path(key), "rb") as file:
            return file.read(), _entry(key, os.fstat(file.fileno())).version

    def download(self, key: str, path: Path, version: str | None) -> None:
        with speaking("read", self._path(key)), open(self._path(key), "rb") as source:
            before = _entry(key, os.fstat(source.fileno())).version
            if version not in (None, before):
                raise PreconditionFailed(f"{self._path(key)} has changed: run again to list it anew")
            with speaking("write", str(path)), open(path, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            after = self.stat(key)
            if after is None or after.version != before:
                raise PreconditionFailed(f"{self._path(key)} changed while it was read: run again to list it anew")

    def open_input(self, key: str) -> BinaryIO:
        with speaking("read", self._path(key)):
            return open(self._path(key), "rb")

    def put(self, key: str, data: bytes | Path, version: str | None) -> str:
        path = self._path(key)
        with speaking("write", path), self._temporary(path, data) as temporary:
            # The version is read first: once the object is in place, another process may delete it.
            if version is None:
                made = _entry(key, os.stat(temporary)).version
                os.link(temporary, path)
            else:
                with _locked(os.path.dirname(path)):
                    current = self.stat(key)
                    if current is None or current.version != version:
                        raise PreconditionFailed(f"{path} is not the version that was read")
                    # Always later than before, however coarse the clock: two versions of the same size must differ.
                    later = max(time.time_ns(), int(version.rpartition("-")[2]) + 1)
                    os.utime(temporary, ns=(later, later))
                    made = _entry(key, os.stat(temporary)).version
                    os.replace(temporary, path)
            _sync(os.path.dirname(path))
            return made

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with speaking("delete", self._path(key)):
                try:
                    os.unlink(self._path(key))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                self._prune(os.path.dirname(self._path(key)))

    def check_writable(self) -> None:
        """Checks the root, or the nearest folder above it that exists."""
        place = self.root
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place):
            raise UsageError(f"{place} is not a folder: name another place")
        with speaking("write", self.root):
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)

    def sweep(self) -> None:
        deadline = time.time() - SWEEP_AGE_S
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(OURS) and name.endswith(".tmp"):
                    path = os.path.join(folder, name)
                    # The writer may still run, and remove its file at any moment.
                    with speaking("remove", path), suppress(FileNotFoundError):
                        if os.stat(path).st_mtime < deadline:
                            os.unlink(path)

    def _prune(self, folder: str) -> None:
        """Removes folders that a deletion left empty, as S3 does; otherwise staging would leave one per video."""
        while folder != self.root and folder.startswith(self.root):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)

    @contextmanager
    def _temporary(self, path: str, data: bytes | Path) -> Iterator[str]:
        """Writes the data to a temporary file beside `path`, synced to the disk; removes it at the end."""
        name = os.path.join(os.path.dirname(path), f"{OURS}{uuid.uuid4().hex}.tmp")
        target = _open_new(name)
        try:
            with target:
                if isinstance(data, Path):
                    with open(data, "rb") as source:
                        shutil.copyfileobj(source, target, _CHUNK)
                else:
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
            yield name
        finally:
            Path(name).unlink(missing_ok=True)

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key) if key else self.root


def _open_new(name: str) -> BinaryIO:
    for _ in range(100):
        try:
            os.makedirs(os.path.dirname(name), exist_ok=True)
            return open(name, "xb")
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, found.st_size, file_version(found))


def _sync(folder: str) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # another process has deleted the object and its folder
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    path = os.path.join(folder, f"{OURS}lock")
    with open(path, "ab") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(f"{path} is held by another process: end the one that stands still") from None
                time.sleep(0.01)
        yield
