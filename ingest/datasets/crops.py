"""The faces that datasets ship as pictures: those of one picture, clip or track are a video with a URI."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError
from common.store.base import file_version
from common.store.uris import canonical_uri
from ingest.datasets.media import frames_of, seen


class Listed(NamedTuple):
    """`version` changes with the pictures; `size` in bytes."""

    uri: str
    version: str
    size: int


class Crops(Protocol):
    """A dataset's crops."""

    def listed(self, video: str) -> Listed | None:
        """The crops of a row's `video` of `labels`; None if there are none. Their URI ends with `video`."""

    def version(self, uri: str) -> str:
        """What `listed` says now. Raises OSError if the pictures are gone."""

    def frames(self, uri: str) -> Iterator[NDArray[np.uint8] | None]:
        """Each frame's face, uint8 [H, W, 3] in RGB; None if it has none. Raises UsageError for a damaged one."""


Cut = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]


class FileCrops:
    """Crops in files: a picture, or a folder with a picture for each frame.

    find: from `video` to the file or folder. numbered: a picture's name is the number of its frame, counted from 1, and
    frames without a face are absent; otherwise the pictures are all frames, in order. cut: gives the face in a whole
    picture, from its pixels and its URI.
    """

    def __init__(
        self, find: Callable[[str], Path | None], *, numbered: bool = False, cut: Cut = lambda rgb, uri: rgb
    ) -> None:
        self._find, self._numbered, self._cut = find, numbered, cut

    def listed(self, video: str) -> Listed | None:
        path = self._find(video)
        if path is None:
            return None
        uri = canonical_uri(str(path))
        return Listed(uri, self.version(uri), sum(each.stat().st_size for each in _files(path)))

    def version(self, uri: str) -> str:
        path = Path(uri)
        if not path.is_dir():
            return file_version(path.stat())
        files = "\n".join(f"{each.name} {file_version(each.stat())}" for each in _files(path))
        return hashlib.sha256(files.encode()).hexdigest()[:32]

    def frames(self, uri: str) -> Iterator[NDArray[np.uint8] | None]:
        frames = 0
        for path in _files(Path(uri)):
            if self._numbered:
                number = int(path.stem) if path.stem.isdecimal() else 0
                if number <= frames:
                    raise UsageError(f"{path} is not named after one frame, counted from 1: unpack the folder again")
                yield from repeat(None, number - frames - 1)
                frames = number
            yield self._cut(seen(path), uri)


def _files(path: Path) -> list[Path]:
    return frames_of(path) if path.is_dir() else [path]
