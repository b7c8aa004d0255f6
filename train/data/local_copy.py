"""Faces of a lake on a local disk, where training finds any picture at once.

A set of faces is a folder: `keys.arrow` has a row for each face, `videos.arrow` one for each video, and in `pictures`
the pictures lie one after the other. They are read one by one, so memory holds the keys alone; the operating system
keeps as much of the file in memory as it has room for. A folder is complete or not there, and never changes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from common.disk import speaking
from common.errors import MienError

_KEYS, _VIDEOS, _PICTURES = "keys.arrow", "videos.arrow", "pictures"
_LOCK = ".lock"


class Records:
    """Byte strings that lie one after the other in a file. Any thread may read any of them."""

    def __init__(self, file: Path, ends: NDArray[np.int64]) -> None:
        """`ends`: int64 [N], where each ends. Raises OSError."""
        self._path, self._ends = file, ends
        self._file = file.open("rb", buffering=0)

    def __getitem__(self, number: int) -> bytes:
        begin, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        found = os.pread(self._file.fileno(), end - begin, begin)
        if len(found) < end - begin:
            raise self.damaged()
        return found

    def damaged(self) -> MienError:
        """What is raised when a byte string is not what was written."""
        return MienError(f"the local copy of faces in {self._path.parent} is damaged: remove the folder, start again")


@dataclass(frozen=True, eq=False)
class LocalCopy:
    """keys and videos as they were written; pictures: of each row of keys; kind: what these are, as its writer says."""

    keys: pd.DataFrame
    videos: pd.DataFrame
    pictures: Records
    kind: str


class Writer:
    """Writes a set of faces to an empty folder. Raises StoreError if the disk refuses."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.faces = kind, 0
        self._folder, self._length = folder, 0
        self._keys: pa.RecordBatchFileWriter | None = None
        with self._writing():
            self._pictures = (folder / _PICTURES).open("wb")

    def add(self, keys: pa.RecordBatch, pictures: Sequence[bytes]) -> None:
        """Faces, all with the same columns of keys."""
        ends = self._length + np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
        self._length, self.faces = int(ends[-1]), self.faces + len(pictures)
        keys = keys.append_column("end", pa.array(ends))
        with self._writing():
            if self._keys is None:
                schema = keys.schema.with_metadata({"kind": self.kind})
                self._keys = pa.ipc.new_file(self._folder / _KEYS, schema)
            self._keys.write_batch(keys)
            self._pictures.writelines(pictures)

    def finish(self, videos: pa.Table) -> None:
        """To be called once, after at least one face."""
        assert self._keys is not None
        with self._writing():
            self._keys.close()
            with pa.ipc.new_file(self._folder / _VIDEOS, videos.schema) as file:
                file.write_table(videos)
            self._pictures.flush()
            os.fsync(self._pictures.fileno())
            self._pictures.close()

    def _writing(self) -> AbstractContextManager[None]:
        return speaking("write", str(self._folder))


def made_once(folder: Path, fill: Callable[[Path], None]) -> LocalCopy:
    """The set of faces in `folder`. `fill(empty folder)` writes it if it is not there, whole; others wait for that.

    Raises what `fill` raises, and StoreError for a folder that cannot be written.
    """
    if (found := _opened(folder)) is not None:
        return found
    with _alone(folder.parent):
        if (found := _opened(folder)) is not None:
            return found
        begun = folder.with_name(f".{folder.name}")
        for old in (begun, folder):  # cut off by a kill, or damaged
            shutil.rmtree(old, ignore_errors=True)
        try:
            with speaking("write", str(folder)):
                begun.mkdir()
            fill(begun)
            with speaking("write", str(folder)):
                begun.rename(folder)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        found = _opened(folder)
    assert found is not None
    return found


def _opened(folder: Path) -> LocalCopy | None:
    """None if it is not there, or cut off."""
    try:
        keys = pa.ipc.open_file(pa.memory_map(str(folder / _KEYS))).read_all()
        videos = pa.ipc.open_file(pa.memory_map(str(folder / _VIDEOS))).read_pandas()
        ends = keys["end"].to_numpy()
        if (folder / _PICTURES).stat().st_size != ends[-1]:
            return None
        kind = keys.schema.metadata[b"kind"].decode()
        return LocalCopy(keys.drop_columns("end").to_pandas(), videos, Records(folder / _PICTURES, ends), kind)
    except (OSError, pa.ArrowInvalid):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """In the block, no other process of this machine is in such a block for the folder, which is made."""
    with speaking("write", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("wb")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
