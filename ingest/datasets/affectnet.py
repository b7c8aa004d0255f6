"""AffectNet: pictures with one of eight expressions, valence and arousal, in either of its two releases.

The first release has CSV files, with or without a line of column names; the second one a `.npy` file for each picture
and value. The picture's folder is part of its name, as the second release counts each of its sets from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import UsageError
from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Annotation, Dataset, Tally, of_pictures
from ingest.datasets.lines import class_of, comma_separated, number
from ingest.datasets.media import Media

CLASSES = {
    "0": "neutral",
    "1": "happiness",
    "2": "sadness",
    "3": "surprise",
    "4": "fear",
    "5": "disgust",
    "6": "anger",
    "7": "contempt",
}
NO_CLASSES = {"8": "none", "9": "uncertain", "10": "no face"}
NOT_ANNOTATED = -2.0  # valence and arousal of a picture that has none

LISTS, PICTURES = "Manually_Annotated_file_lists", "Manually_Annotated_Images"
CSV_SPLITS = {"training": "train", "validation": "validation"}
COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
BOX = COLUMNS[1:5]
NPY_SPLITS = {"train_set": "train", "val_set": "validation"}


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each picture with an expression or with valence and arousal."""
    lists = _lists(root)
    sets = {root / name / "annotations": split for name, split in NPY_SPLITS.items()}
    if any(path.exists() for path in lists):
        found = (each for path, split in lists.items() for each in _listed(path, split, tally))
    elif any(path.is_dir() for path in sets):
        found = (each for path, split in sets.items() for each in _stored(path, split, tally))
    else:
        raise UsageError(
            f"no annotations of AffectNet in {root}: expected {LISTS}/training.csv or train_set/annotations, "
            "see `mien label affectnet --describe`"
        )
    yield of_pictures(found, tally, _media(root), ["va", "expr"])


def _lists(root: Path) -> dict[Path, str]:
    """The lists of the first release, and their splits."""
    folder = LISTS if (root / LISTS).is_dir() else "."
    return {root / folder / f"{name}.csv": split for name, split in CSV_SPLITS.items()}


def _listed(path: Path, split: str, tally: Tally) -> Iterator[Annotation]:
    for where, cells in comma_separated(path, COLUMNS, tally):
        picture = cells["subDirectory_filePath"]
        if picture.count("/") != 1:
            raise UsageError(f"{where}: expected folder/picture, found {picture!r}: take the file as it was published")
        yield from _annotation(_name(picture), split, where, cells, tally)


def _name(picture: str) -> str:
    """The last folder and the name without extension."""
    path = Path(picture)
    return f"{path.parent.name}/{path.stem}"


def _stored(folder: Path, split: str, tally: Tally) -> Iterator[Annotation]:
    if not folder.is_dir():
        raise UsageError(f"there is no {folder}: `mien label affectnet --describe` says which files are expected")
    for path in sorted(folder.glob("*_exp.npy")):
        picture = path.name.removesuffix("_exp.npy")
        files = {"expression": path, "valence": folder / f"{picture}_val.npy", "arousal": folder / f"{picture}_aro.npy"}
        tally.annotations += 1
        cells = {name: _value(file) for name, file in files.items()}
        yield from _annotation(f"{folder.parent.name}/images/{picture}", split, str(path), cells, tally)


def _value(path: Path) -> str:
    """The only value in a file, which may be a number or its text."""
    try:
        return str(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as one value ({error}): take the file as it was published") from None


def _annotation(name: str, split: str, where: str, cells: dict[str, str], tally: Tally) -> Iterator[Annotation]:
    """None for a picture of which nothing is annotated."""
    code = f"{number(cells['expression'], where):g}"  # 1.0 in some copies
    label = class_of(CLASSES | NO_CLASSES, code, where)
    affect = [number(cells[value], where) for value in ("valence", "arousal")]
    known = NOT_ANNOTATED not in affect
    if known and not all(-1 <= value <= 1 for value in affect):
        raise UsageError(f"{where}: valence {affect[0]} and arousal {affect[1]} must be in [-1, 1], or -2 for none")
    if code in NO_CLASSES and not known:
        tally.drop(f"its expression is {label!r}, and it has no valence and arousal", where)
        return
    expression = None if code in NO_CLASSES else label
    valence, arousal = affect if known else (None, None)
    yield Annotation(name, name, split, where, expression, valence, arousal)


def _media(root: Path) -> Media:
    return Media(root, PICTURES) if (root / PICTURES).is_dir() else Media(root, *_sets(root))


def _sets(root: Path) -> list[str]:
    """The root itself, where it holds a set of the second release: pictures are then named with the set's folder."""
    return ["."] if any((root / name / "images").is_dir() for name in NPY_SPLITS) else []


class _Faces:
    """Cuts the face out of a picture of the first release, whose lists say where it is. Reads them at the first one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines: dict[str, tuple[str, list[str]]] = {}

    def __call__(self, rgb: NDArray[np.uint8], uri: str) -> NDArray[np.uint8]:
        if not self._lines:
            lines = (each for path in _lists(self._root) for each in comma_separated(path, COLUMNS, Tally()))
            self._lines = {
                _name(cells[COLUMNS[0]]): (where, [cells[column] for column in BOX]) for where, cells in lines
            }
        where, texts = self._lines[_name(uri)]
        x, y, width, height = (round(number(text, where)) for text in texts)
        face = rgb[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        if not face.size:
            raise UsageError(f"{where}: the face is outside of its picture, which is {rgb.shape[1]}x{rgb.shape[0]}")
        return face


def _crops(root: Path) -> FileCrops:
    if (root / PICTURES).is_dir():
        return FileCrops(_media(root).find, cut=_Faces(root))
    return FileCrops(_media(root).find)


DATASET = Dataset(
    title="AffectNet",
    files={
        f"{LISTS}/training.csv, {LISTS}/validation.csv": "first release: labels, with or without column names",
        f"{PICTURES}/<folder>/<picture>": "first release: the pictures that the lists name",
        "train_set/annotations/<id>_{exp,val,aro}.npy, val_set/annotations/...": "second release: one value a file",
        "train_set/images/<id>.jpg, val_set/images/<id>.jpg": "second release: the pictures",
    },
    source="for research, by request at http://mohammadmahoor.com/affectnet/",
    read=read,
    pictures=lambda root, rows: _media(root).pictures(rows),
    crops=_crops,
)
