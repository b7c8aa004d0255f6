"""A folder for a process's temporary files that goes even if the process was killed."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "mien-process-"
_LOCK = "lock"


def claim() -> Path:
    """Makes a new folder this process's place for temporary files, and removes those of processes that are gone.

    Whether an owner lives is told by its lock, not by its process id: containers may share a disk but not their ids.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(folder)
    own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    lock = os.open(own / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held until the process ends
    tempfile.tempdir = str(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # another user's, or just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
