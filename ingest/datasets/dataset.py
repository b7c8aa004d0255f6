"""What `mien label` knows of a dataset, and how the annotations of pictures and clips become rows of `labels`.

A module of this folder reads one publisher's files and makes one `Dataset`. It gives names of classes, never the
publisher's numbers, whose order differs from dataset to dataset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import UsageError
from common.lake.schema import LABELS, LABELS_SORTED_BY
from ingest.datasets.crops import Crops
from ingest.datasets.media import Media

FOLDS = 4
SPLITS = ("train", "validation", "test")
_RELEASED = ("expression", "valence", "arousal")


@dataclass
class Tally:
    """What a reader found: how many annotations, how many of them it dropped for which reason, and where the first of
    these stands. An annotation is what becomes one row."""

    annotations: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, where: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first.setdefault(reason, where)


Row = Mapping[str, Any]
"""A row of `labels`, by column."""


@dataclass(frozen=True)
class Dataset:
    """A dataset's module in one object.

    files: path below the dataset's folder -> what is in it. source: where the data is asked for. read: yields tables of
    `common.lake.schema.LABELS`, sorted by video, and raises UsageError for what it cannot read. pictures: for each of
    some rows the picture it is about (of a clip the middle frame), uint8 [H, W, 3] in RGB, None if it is not there.
    crops: the faces that it ships.
    """

    title: str
    files: Mapping[str, str]
    source: str
    read: Callable[[Path, Tally], Iterator[pa.Table]]
    pictures: Callable[[Path, Sequence[Row]], Iterator[NDArray[np.uint8] | None]]
    crops: Callable[[Path], Crops]


class Annotation(NamedTuple):
    """What was annotated of one picture or clip. `base_video`: its file's name without extension, with as many folders
    before it as make it unique. `where`: file and line. `fold`: of a dataset that publishes folds."""

    video: str
    base_video: str
    split: str
    where: str
    expression: str | None = None
    valence: float | None = None
    arousal: float | None = None
    votes: int | None = None
    fold: int | None = None

    @property
    def values(self) -> tuple[str | float | None, ...]:
        return self.expression, self.valence, self.arousal


def fold(base_video: str) -> int:
    """1 to 4, as fold 0 of cross-validation is the official split: SHA-256 of the video's name, modulo 4, plus 1.

    So it is the same in every dataset that has the picture or clip.
    """
    return 1 + int.from_bytes(_hash(base_video)[:8], "big") % FOLDS


def even_folds(base_videos: Iterable[str]) -> dict[str, int]:
    """The same for datasets of few, long videos: 1 to 4, dealt out to the videos in the order of their hashes.

    So the folds are of equal size, which chance would not give to a hundred videos.
    """
    return {name: 1 + number % FOLDS for number, name in enumerate(sorted(set(base_videos), key=_hash))}


def _hash(base_video: str) -> bytes:
    return hashlib.sha256(base_video.encode()).digest()


def of_pictures(annotations: Iterable[Annotation], tally: Tally, media: Media, tasks: Sequence[str]) -> pa.Table:
    """The rows of annotated pictures: a picture is a video of one frame. `media`: where the pictures are, if anywhere.

    `tasks`: those whose split is stated. Drops annotations whose picture is missing, and repeated ones.
    """
    return _table(_once(_present(annotations, tally, media), tally), tasks, clips=False)


def of_clips(annotations: Iterable[Annotation], tally: Tally, media: Media) -> pa.Table:
    """The rows of clips that are annotated as a whole with an expression; otherwise like `of_pictures`."""
    return _table(_once(_present(annotations, tally, media), tally), ["expr"], clips=True)


def _present(annotations: Iterable[Annotation], tally: Tally, media: Media) -> list[Annotation]:
    """Those whose picture or clip is there; all of them, if the dataset's folder holds labels alone."""
    every = list(annotations)
    if not media.folders:
        return every
    found = []
    for each in every:
        if media.find(each.base_video):
            found.append(each)
        else:
            tally.drop("its picture or clip is missing", f"{each.where}: {each.base_video}")
    if every and not found:
        folders = " and ".join(map(str, media.folders))
        raise UsageError(
            f"none of the {len(every)} labelled pictures or clips is in {folders}: the first one, "
            f"{every[0].base_video}, stands in {every[0].where}; unpack them there, or move the folder away to label "
            "without them"
        )
    return found


def _once(annotations: list[Annotation], tally: Tally) -> list[Annotation]:
    """One annotation for each picture or clip.

    Of repeated ones that agree the most held-out one stays, so that nothing is both trained on and tested on. None
    stays of those that contradict each other.
    """
    groups: dict[str, list[Annotation]] = {}
    for each in annotations:
        groups.setdefault(each.base_video, []).append(each)
    kept = []
    for group in groups.values():
        if len({each.values for each in group}) > 1:
            for each in group:
                tally.drop("the same picture or clip has another label elsewhere", f"{each.where}: {each.base_video}")
            continue
        stays = max(group, key=lambda each: SPLITS.index(each.split))  # the first of them, where several are
        for each in group:
            if each is not stays:
                tally.drop("a repetition of the same picture or clip", f"{each.where}: {each.base_video}")
        kept.append(stays)
    return kept


def _table(annotations: list[Annotation], tasks: Sequence[str], clips: bool) -> pa.Table:
    count = len(annotations)
    names = [each.video for each in annotations]
    split = [each.split for each in annotations]
    table = to_table(
        {
            "video": names,
            "base_video": [each.base_video for each in annotations],
            "clip" if clips else "frame_index": names if clips else np.zeros(count, np.int32),
            **{name: [getattr(each, name) for each in annotations] for name in ("votes", *_RELEASED)},
            **{f"split_{task}": split for task in tasks},
            "fold": [fold(each.base_video) if each.fold is None else each.fold for each in annotations],
        },
        count,
    )
    return table.sort_by([(name, "ascending") for name in LABELS_SORTED_BY])


def to_table(columns: Mapping[str, Any], count: int) -> pa.Table:
    """A table of `LABELS` with `count` rows from some of its columns; the others are NULL."""

    def column(name: str, type_: pa.DataType) -> pa.Array:
        if name not in columns:
            return pa.nulls(count, type_)
        values = columns[name]
        return values.cast(type_) if isinstance(values, pa.Array) else pa.array(values, type_)

    return pa.table([column(each.name, each.type) for each in LABELS], schema=LABELS)
