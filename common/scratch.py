"""Temporary files: one folder per process, which is removed even if the process was killed, and folders in it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.disk import speaking

_PREFIX = "mien-process-"
_LOCK = "lock"


_own: dict[int, tuple[Path, int]] = {}  # by process id, as a fork inherits it: the folder and the open lock


def claim() -> Path:
    """Makes the folder for this process's temporary files, and removes the folders of processes that have ended.

    A process that has claimed one keeps it. A lock tells whether the owner of a folder still runs. A process id would
    not: containers may share a disk, but each has its own process ids.
    """
    if (own := _claimed()) is not None:
        return own
    root = Path(tempfile.gettempdir())
    _sweep(root)
    with speaking("write", str(root)):
        while True:
            own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            if (lock := _lock(own / _LOCK)) is not None:
                break
    _own[os.getpid()] = own, lock
    tempfile.tempdir = str(own)
    atexit.register(release)
    return own


def release() -> None:
    """Removes this process's folder, and those of processes that have ended."""
    if (own := _claimed()) is not None:
        tempfile.tempdir = str(own.parent)
        os.close(_own.pop(os.getpid())[1])
        _sweep(own.parent)


@contextmanager
def claimed() -> Iterator[Path]:
    """`claim` for a block. Processes that end with the block leave nothing either, even if they were killed."""
    try:
        yield claim()
    finally:
        release()


def folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that is removed when its block ends, or after the process. `StoreError` if it cannot be made."""
    own = claim()
    with speaking("write", str(own)):
        return tempfile.TemporaryDirectory(prefix="mien-", dir=own, ignore_cleanup_errors=True)


def _claimed() -> Path | None:
    own = _own.get(os.getpid())
    return own[0] if own and tempfile.tempdir == str(own[0]) else None


def _sweep(root: Path) -> None:
    for other in root.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(other)


def _lock(path: Path) -> int | None:
    """Locks a new file until the process ends; None if another process took it for abandoned and removed it first."""
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fstat(lock).st_nlink:
        return lock
    os.close(lock)
    return None


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # it belongs to another user, or is just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        if os.fstat(lock).st_nlink:  # else another process has removed it meanwhile
            _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """The lock goes last: what cannot be removed now, as a process that is ending still writes, is tried again."""
    for entry in list(folder.iterdir()):
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if [entry.name for entry in folder.iterdir()] == [_LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
