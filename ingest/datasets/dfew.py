"""DFEW: clips of films with one of seven expressions, in five official folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Dataset, Tally, of_clips
from ingest.datasets.lines import class_of, comma_separated
from ingest.datasets.media import Media
from ingest.datasets.official_folds import Clip, folded

CLASSES = {
    "1": "happiness",
    "2": "sadness",
    "3": "neutral",
    "4": "anger",
    "5": "surprise",
    "6": "disgust",
    "7": "fear",
}
SEVERAL = {"0": "no single one"}
LISTS = "EmoLabel_DataSplit"
FRAMES, CLIPS = "Clip/clip_224x224", "Clip/original"


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each clip of the official folds."""

    def lists(number: int, part: str, counted: Tally) -> Iterator[Clip]:
        folders = (root / LISTS / f"{part}({kind})" for kind in ("single-labeled", "single_labeled"))
        folder = next((each for each in folders if each.is_dir()), root / LISTS / f"{part}(single-labeled)")
        for where, cells in comma_separated(folder / f"set_{number}.csv", ("video_name", "label"), counted):
            label = class_of(CLASSES | SEVERAL, cells["label"], where)
            yield Clip(cells["video_name"].zfill(5), None if cells["label"] in SEVERAL else label, where)

    yield of_clips(folded(lists, tally), tally, Media(root, FRAMES, CLIPS))


DATASET = Dataset(
    title="DFEW",
    files={
        f"{LISTS}/test(single-labeled)/set_1.csv ... set_5.csv": "columns video_name, label",
        f"{LISTS}/train(single-labeled)/set_1.csv ... set_5.csv": "the same for training",
        f"{FRAMES}/<clip>/": "the aligned faces of each clip",
        f"{CLIPS}/<clip>.mp4": "the clips",
    },
    source="for research, by request at https://dfew-dataset.github.io/",
    read=read,
    pictures=lambda root, rows: Media(root, FRAMES, CLIPS).pictures(rows),
    crops=lambda root: FileCrops(Media(root, FRAMES).find),
)
