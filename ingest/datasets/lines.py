"""The lines of a dataset's text files, and what is said of a bad one: file, line, what was expected."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UsageError
from ingest.datasets.dataset import Tally


class Line(NamedTuple):
    """`where`: the file and the line's number; `cells`: by name of the column."""

    where: str
    cells: dict[str, str]


def comma_separated(path: Path, columns: Sequence[str], tally: Tally) -> Iterator[Line]:
    """The lines of a CSV file with these columns, each counted as an annotation.

    The first line may name the columns, in any order; without such a line they are in the order of `columns`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = list(columns)
            for number, row in enumerate(reader):
                cells = [cell.strip() for cell in row]
                if number == 0 and sorted(cells) == sorted(columns):
                    names = cells
                elif any(cells):
                    yield _line(f"{path}, line {reader.line_num}", names, cells, tally)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def space_separated(path: Path, columns: Sequence[str], tally: Tally) -> Iterator[Line]:
    """The lines of a file whose columns have spaces or tabs between them and no names."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield _line(f"{path}, line {number}", columns, text.split(), tally)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _line(where: str, columns: Sequence[str], cells: list[str], tally: Tally) -> Line:
    if len(cells) != len(columns):
        raise UsageError(
            f"{where}: expected {len(columns)} columns ({', '.join(columns)}), found {len(cells)}: "
            "take the file as it was published"
        )
    tally.annotations += 1
    return Line(where, dict(zip(columns, cells, strict=True)))


def _unreadable(path: Path, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"there is no {path}: `mien label DATASET --describe` says which files are expected")
    return UsageError(f"{path} cannot be read as text ({error}): take the file as it was published")


def class_of(classes: Mapping[str, str], code: str, where: str) -> str:
    """The name of a class. Raises UsageError for a code that the dataset does not have."""
    if code not in classes:
        known = ", ".join(code if code == name else f"{code} ({name})" for code, name in classes.items())
        raise UsageError(f"{where}: {code!r} is no class of this dataset, which has {known}")
    return classes[code]


def number(text: str, where: str) -> float:
    """Raises UsageError for what is no finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where}: expected a number, found {text[:40]!r}: take the file as it was published")
    return value
