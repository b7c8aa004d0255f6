"""One store over local files and S3: all other modules reach files of a lake and videos on S3 through it alone.

Objects appear whole or not at all. `create` never overwrites and `replace` only overwrites the version it names: on S3
by one conditional put (`If-None-Match: *`, `If-Match`), on local files by a temporary file in the same folder and a
hard link or a rename under a lock. If the answer to a put is lost and the put is repeated, the store recognises its own
object.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from common.errors import AlreadyExists, StoreError
from common.store.base import Backend, Entry, StoreSettings
from common.store.uris import canonical_uri


class Store:
    """The objects below one root. Picklable, safe to use from several threads and after a fork.

    Every method raises `StoreError`, one sentence that says what failed, where, and what to do, once bounded retries
    (about a minute) have not helped.
    """

    def __init__(self, url: str, settings: StoreSettings | None = None) -> None:
        """`url`: a local folder (made at the first put) or `s3://bucket[/prefix]`."""
        self.url = canonical_uri(str(url)).rstrip("/") or "/"
        self.settings = settings or StoreSettings.from_env()
        self.is_local = not self.url.startswith("s3://")

    @property
    def _backend(self) -> Backend:
        # Imported here: s3fs is slow to import, and a local run does not need it.
        if self.is_local:
            from common.store.local import LocalFiles

            return LocalFiles(self.url)
        from common.store.s3 import S3Objects

        return S3Objects(self.url, self.settings)

    def _checked(self, key: str) -> str:
        # On S3 a key is a name, not a path: it may begin with a slash or hold dots like any other character.
        leaves = key.startswith("/") or "\0" in key or not {".", ".."}.isdisjoint(key.split("/"))
        if not key or (self.is_local and leaves):
            raise StoreError(f"{key!r} is not a key this program reads or writes: rename the object")
        return key

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with `prefix`, page by page, never from a cache; in key order on S3 only.

        Local: does not follow links to folders, and leaves out the temporary files of other writers.
        """
        return self._backend.list(prefix)

    def stat(self, key: str) -> Entry | None:
        """The object, or None if there is none."""
        return self._backend.stat(self._checked(key))

    def read(self, key: str) -> bytes:
        """The whole object. Raises `NotFound`."""
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """The whole object and the version that was read. Raises `NotFound`."""
        return self._backend.read_versioned(self._checked(key))

    def download(self, key: str, path: Path, version: str | None = None) -> None:
        """Copies the object to a local file in bounded memory; on an error no file is left.

        Raises `NotFound`, and `PreconditionFailed` if the object is not `version` or changes while it is read.
        """
        try:
            self._backend.download(self._checked(key), path, version)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def open_input(self, key: str) -> BinaryIO:
        """The object as a seekable file that reads ranges as they are asked for. Raises `NotFound`."""
        return self._backend.open_input(self._checked(key))

    def create(self, key: str, data: bytes | Path) -> str:
        """Puts a new object (bytes, or a file's content) and returns its version. Raises `AlreadyExists`."""
        return self._backend.put(self._checked(key), _not_empty(key, data), None)

    def replace(self, key: str, data: bytes | Path, version: str) -> str:
        """Puts over the named version, returns the new one. Raises `PreconditionFailed` if it is another, or none."""
        return self._backend.put(self._checked(key), _not_empty(key, data), version)

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects in batches; a key without an object is no error."""
        self._backend.delete(self._checked(key) for key in keys)

    def check_writable(self) -> None:
        """Raises `AccessDenied` without permission to write, `UsageError` if the root is a file. Writes nothing."""
        self._backend.check_writable()

    def sweep(self) -> None:
        """Removes temporary files that killed writers left a day ago or earlier (local files only)."""
        self._backend.sweep()

    def check_exclusive(self, writers: int = 16) -> None:
        """Sends `writers` create-only puts of one key at the same time. Raises `StoreError` unless one succeeds."""
        key = f"_doctor/exclusive-{uuid.uuid4().hex}"
        gate = threading.Barrier(writers)

        def attempt(number: int) -> bool:
            gate.wait()
            try:
                self.create(key, f"writer {number}".encode())
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(writers) as pool:
            winners = sum(pool.map(attempt, range(writers)))
        self.delete([key])
        if winners != 1:
            raise StoreError(
                f"{winners} of {writers} writers created the same object in {self.url}: this storage does not keep "
                "create-only puts, use one that does (AWS S3, or a local disk)"
            )


def _not_empty(key: str, data: bytes | Path) -> bytes | Path:
    # Elsewhere an empty object may be left by a failed upload; mien never writes one.
    if (data.stat().st_size if isinstance(data, Path) else len(data)) == 0:
        raise ValueError(f"empty object {key}")
    return data
