"""Errors of the operating system about a local path, turned into sentences."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import AccessDenied, AlreadyExists, NotFound, StoreError


@contextmanager
def speaking(action: str, path: str) -> Iterator[None]:
    """Turns an error of the operating system in the block into a `StoreError` with a sentence.

    `action`: the verb for what the block does to `path`, such as "write", "read" or "list".
    """
    try:
        yield
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already") from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        if action == "write":
            raise StoreError(f"cannot write {path}: a folder in its path is gone or a file, check the place") from None
        raise NotFound(f"{path} is not there, or no file") from None
    except OSError as error:
        where = f"cannot {action} {path}"
        if error.errno in (errno.EACCES, errno.EPERM):
            raise AccessDenied(f"{where}: access is denied, change its permissions or choose another place") from None
        if error.errno == errno.EROFS:
            raise AccessDenied(f"{where}: the file system is read-only, choose another place") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"{where}: the disk or the quota is full, make room and run again") from None
        raise StoreError(f"{where}: {error.strerror or error}") from None
