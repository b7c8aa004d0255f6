"""Aff-Wild2 as the ABAW competitions publish it (3rd to 8th): a text file per face track and task -> `labels` rows.

`<N>th_ABAW_Annotations/<task>/{Train_Set,Validation_Set}/<name>.txt`; the folder of the expression task has one of two
names. Line 1 is a header; line i after it is the i-th frame of the video, counted from 1. A frame that is not annotated
has -5 (valence, arousal) or -1 (expression, action units), which become NULL.

For many videos the organisers count one frame more than the container holds. So a file may have a line for a frame that
cannot be decoded: its row is kept, and no face will ever be joined to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import tasks
from common.errors import UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS, VALENCE_AROUSAL
from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Dataset, Row, Tally, even_folds, to_table
from ingest.datasets.media import seen

SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}
CROPS = ("cropped_aligned*", "*/cropped_aligned*")


@dataclass(frozen=True)
class Files:
    """How a task is annotated: the possible names of its folder, the header of its files, how many numbers a line has
    (`width`), and their range. `whole`: they are integers. A number below `lowest` means: not annotated."""

    folders: tuple[str, ...]
    header: str
    width: int
    lowest: float
    highest: float
    whole: bool


TASKS = {
    "va": Files(("VA_Estimation_Challenge",), ",".join(VALENCE_AROUSAL), 2, lowest=-1, highest=1, whole=False),
    "expr": Files(
        ("EXPR_Classification_Challenge", "EXPR_Recognition_Challenge"),
        ",".join(name.capitalize() for name in EXPRESSIONS),
        1,
        lowest=0,
        highest=len(EXPRESSIONS) - 1,
        whole=True,
    ),
    "au": Files(
        ("AU_Detection_Challenge",),
        ",".join(f"AU{int(unit[2:])}" for unit in ACTION_UNITS),
        len(ACTION_UNITS),
        lowest=0,
        highest=1,
        whole=True,
    ),
}


def base_and_subject(name: str) -> tuple[str, str | None]:
    """`video5_left` -> (`video5`, `left`); `video5` -> (`video5`, None), even if there is a `video5_right`."""
    for subject in ("left", "right"):
        if name.endswith(f"_{subject}"):
            return name.removesuffix(f"_{subject}"), subject
    return name, None


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """A table of `common.lake.schema.LABELS` per annotated face track, sorted by name, with a row per annotated frame.

    Raises UsageError for a folder without annotations and for a line that cannot be read, naming file and line.
    """
    found: dict[str, dict[str, tuple[Path, str]]] = {}
    for task, split, path in _files(root):
        first, _ = found.setdefault(path.stem, {}).setdefault(task, (path, split))
        if first != path:
            raise UsageError(f"{path} and {first} annotate the same video and task: keep one of them")
    if not found:
        raise UsageError(f"no annotations in {root}: expected <N>th_ABAW_Annotations/VA_Estimation_Challenge/Train_Set")
    folds = even_folds(base_and_subject(name)[0] for name in found)
    for name in sorted(found):
        table = _table(name, found[name], folds[base_and_subject(name)[0]])
        tally.annotations += len(table)
        yield table


def _files(root: Path) -> Iterator[tuple[str, str, Path]]:
    homes = [root] if root.name.endswith("ABAW_Annotations") else sorted(root.glob("*ABAW_Annotations"))
    for home in homes:
        for task, facts in TASKS.items():
            for folder in facts.folders:
                for split_folder, split in SPLITS.items():
                    for path in sorted((home / folder / split_folder).glob("*.txt")):
                        if not path.name.startswith("."):
                            yield task, split, path


def _table(name: str, files: dict[str, tuple[Path, str]], fold: int) -> pa.Table:
    values = {task: _numbers(path, TASKS[task].width) for task, (path, _) in files.items()}
    count = max(map(len, values.values()))
    base, subject = base_and_subject(name)
    columns: dict[str, pa.Array] = {
        "video": pa.repeat(name, count),
        "base_video": pa.repeat(base, count),
        "subject": pa.repeat(pa.scalar(subject, pa.string()), count),
        "frame_index": pa.array(np.arange(count)),
        "fold": pa.repeat(fold, count),
    }
    for task in TASKS:
        split = files[task][1] if task in files else None
        columns[f"split_{task}"] = pa.repeat(pa.scalar(split, pa.string()), count)
        rows = np.full((count, TASKS[task].width), np.nan)
        if task in files:
            rows[: len(values[task])] = _valid(TASKS[task], values[task], files[task][0])
        columns |= _columns(task, rows)
    return to_table(columns, count)


def _numbers(path: Path, width: int) -> np.ndarray:
    """float64 [lines, width] of a file, its header left out."""
    try:
        header, *lines = path.read_text("utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from None
    if _row(header):  # the header is missing: without it every label would be one frame too early
        raise UsageError(f"{path}, line 1: expected the names of the columns, found {header!r}: put the header back")
    while lines and not lines[-1].strip():
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=2):
        row = _row(line)
        if len(row) != width or not all(map(math.isfinite, row)):
            raise UsageError(f"{path}, line {number}: expected {width} numbers separated by commas, found {line!r}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, width)


def _row(line: str) -> list[float]:
    """The line's numbers; empty if a cell is not a number."""
    try:
        return [float(cell) for cell in line.split(",")]
    except ValueError:
        return []


def _valid(facts: Files, rows: np.ndarray, path: Path) -> np.ndarray:
    """The rows, with NaN for frames that are not annotated: one of their numbers is below `lowest`."""
    unmarked = np.all(rows >= facts.lowest, axis=1)
    allowed = (rows <= facts.highest) & ((rows == np.rint(rows)) | (not facts.whole))
    wrong = unmarked & ~np.all(allowed, axis=1)
    if wrong.any():
        line = int(np.argmax(wrong))
        raise UsageError(f"{path}, line {line + 2}: {rows[line].tolist()} is out of range")
    return np.where(unmarked[:, None], rows, np.nan)


def _columns(task: str, rows: np.ndarray) -> dict[str, pa.Array]:
    """The task's columns of `labels`; NaN becomes NULL."""
    made = tasks.TASKS[task]
    if isinstance(made, tasks.OneOf):
        known = ~np.isnan(rows[:, 0])
        codes = np.where(known, rows[:, 0], 0).astype(np.int32)
        return {made.column: pa.array(np.array(made.outputs, object)[codes], pa.string(), mask=~known)}
    return {name: pa.array(column, from_pandas=True) for name, column in zip(made.label_columns, rows.T, strict=True)}


def _track(root: Path, name: str) -> Path | None:
    """The folder with the organisers' crops of a track. They lie in one folder or, as they are shipped, in several."""
    homes = (path for pattern in CROPS for path in sorted(root.glob(pattern)))
    return next((home / name for home in homes if (home / name).is_dir()), None)


def pictures(root: Path, rows: Sequence[Row]) -> Iterator[NDArray[np.uint8] | None]:
    """See `Dataset.pictures`: the organisers' crops."""
    for row in rows:
        folder = _track(root, row["video"])
        path = folder / f"{row['frame_index'] + 1:05d}.jpg" if folder else None
        yield seen(path) if path and path.is_file() else None


DATASET = Dataset(
    title="Aff-Wild2 (ABAW)",
    files={
        "<N>th_ABAW_Annotations/<task>/{Train_Set,Validation_Set}/<track>.txt": "a column line, then a line per frame",
        "  <task>": ", ".join(folder for facts in TASKS.values() for folder in facts.folders),
        "cropped_aligned*/<track>/00001.jpg": "the organisers' crops",
    },
    source="for research, by request at https://ibug.doc.ic.ac.uk/resources/aff-wild2/",
    read=read,
    pictures=pictures,
    crops=lambda root: FileCrops(partial(_track, root), numbered=True),
)
