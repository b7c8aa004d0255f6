"""Temporary files: one folder per process, which is removed even if the process was killed, and folders in it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from common.disk import speaking

_PREFIX = "mien-process-"
_LOCK = "lock"


def claim() -> Path:
    """Makes the folder for this process's temporary files, and removes the folders of processes that have ended.

    A lock tells whether the owner of a folder still runs. A process id would not: containers may share a disk, but each
    has its own process ids.
    """
    root = Path(tempfile.gettempdir())
    for other in root.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(other)
    with speaking("write", str(root)):
        while True:
            own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            if _lock(own / _LOCK):
                break
    tempfile.tempdir = str(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that is removed when its block ends. Raises `StoreError` if it cannot be made."""
    with speaking("write", tempfile.tempdir or "temporary files"):
        return tempfile.TemporaryDirectory(prefix="mien-", ignore_cleanup_errors=True)


def _lock(path: Path) -> bool:
    """Locks a new file until the process ends. False if another process took it for abandoned and removed it first."""
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fstat(lock).st_nlink:
        return True
    os.close(lock)
    return False


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
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
