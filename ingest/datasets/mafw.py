"""MAFW: clips of films and television with one of eleven expressions, in five official folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from common.labels import ALL_EXPRESSIONS
from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Dataset, Tally, of_clips
from ingest.datasets.lines import class_of, space_separated
from ingest.datasets.media import Media
from ingest.datasets.official_folds import Clip, folded

CLASSES = {name: name for name in ALL_EXPRESSIONS if name != "other"}
LISTS = "Train & Test Set/single/no_caption"
FRAMES, CLIPS = "data/frames", "clips"


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each clip with a single label."""

    def lists(number: int, part: str, counted: Tally) -> Iterator[Clip]:
        path = root / LISTS / f"set_{number}" / f"{part}.txt"
        for where, cells in space_separated(path, ("clip", "label"), counted):
            yield Clip(Path(cells["clip"]).stem, class_of(CLASSES, cells["label"], where), where)

    yield of_clips(folded(lists, tally), tally, Media(root, FRAMES, CLIPS))


DATASET = Dataset(
    title="MAFW, single labels",
    files={
        f"{LISTS}/set_1/test.txt ... set_5/test.txt": "the labels: `00001.mp4 anger`",
        f"{LISTS}/set_1/train.txt ... set_5/train.txt": "the same for training",
        f"{CLIPS}/<clip>.mp4": "the clips",
        f"{FRAMES}/<clip>/": "or the frames of each clip",
    },
    source="for research, by request at https://mafw-database.github.io/MAFW/",
    read=read,
    pictures=lambda root, rows: Media(root, FRAMES, CLIPS).pictures(rows),
    crops=lambda root: FileCrops(Media(root, FRAMES).find),
)
