"""The pictures, clips and folders of frames that a dataset's labels are about: where they lie, and what they show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError, VideoError
from ingest.decode.reader import DecodeOptions, open_video

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


class Media:
    """Files and folders below those of `folders` that exist, found by name without extension.

    Each folder is listed once: to ask for 400,000 files one by one takes minutes on a network's file system.
    """

    def __init__(self, root: Path, *folders: str) -> None:
        self.folders = [root / folder for folder in folders if (root / folder).is_dir()]
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """The file or folder of that name, which may have folders before it; None if there is none.

        A name that leads out of the folders is not found: it comes from the dataset's files.
        """
        if name.startswith("/") or ".." in name.split("/"):
            return None
        for folder in self.folders:
            place = folder / name
            if place.parent not in self._listed:
                self._listed[place.parent] = _listing(place.parent)
            if found := self._listed[place.parent].get(place.name):
                return found
        return None

    def pictures(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[NDArray[np.uint8] | None]:
        """What `seen` gives of each row's `base_video`; None for one that is not there."""
        for row in rows:
            path = self.find(row["base_video"])
            yield seen(path) if path else None


def _listing(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name if path.is_dir() else path.stem: path for path in entries}


def seen(path: Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB: the picture in a file, or the middle frame of a clip or of a folder of frames.

    Raises UsageError for what cannot be decoded.
    """
    if path.is_dir():
        frames = frames_of(path)
        if not frames:
            raise UsageError(f"{path} holds no picture: unpack the clip's frames again")
        return seen(frames[len(frames) // 2])
    if path.suffix.lower() in _PICTURES:
        return _picture(path)
    return _middle_frame(path)


def frames_of(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of the numbers in their names."""
    pictures = (each for each in folder.iterdir() if each.suffix.lower() in _PICTURES and not each.name.startswith("."))
    return sorted(pictures, key=_numbers)


def _numbers(path: Path) -> list[int]:
    """The numbers in a frame's name, so that 10.jpg comes after 9.jpg and 1_10.jpg after 1_9.jpg."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)]


def _picture(path: Path) -> NDArray[np.uint8]:
    try:
        coded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UsageError(f"the picture {path} cannot be read: {error.strerror}") from None
    try:
        bgr = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    except cv2.error:  # the file is empty, or states a size beyond all reason
        bgr = None
    if bgr is None:
        raise UsageError(f"the picture {path} cannot be decoded: unpack it again")
    return np.ascontiguousarray(bgr[..., ::-1])


def _middle_frame(path: Path) -> NDArray[np.uint8]:
    """Decodes the clip twice, as only the first time tells how many frames it has."""
    try:
        with open_video(path) as reader:
            middle = sum(len(batch) for batch in reader) // 2
        with open_video(path, DecodeOptions(every=max(1, middle))) as reader:
            for batch in reader:
                wanted = np.flatnonzero(batch.frame_index == middle)
                if len(wanted):
                    return batch.rgb[wanted[0]].copy()
    except VideoError as error:
        raise UsageError(f"the clip {path} cannot be decoded ({error}): unpack it again") from None
    raise UsageError(f"the clip {path} changed while it was read: run the command again")
