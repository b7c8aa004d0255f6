"""FERV39k: clips from 22 kinds of scenes with one of seven expressions.

A clip's number is unique within its scene and expression only, so its name has all three: `Action/Happy/0267`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ingest.datasets.crops import FileCrops
from ingest.datasets.dataset import Annotation, Dataset, Tally, of_clips
from ingest.datasets.lines import class_of, space_separated
from ingest.datasets.media import Media

CLASSES = {
    "Happy": "happiness",
    "Sad": "sadness",
    "Neutral": "neutral",
    "Angry": "anger",
    "Surprise": "surprise",
    "Disgust": "disgust",
    "Fear": "fear",
}
LISTS = "4_setups/All_scenes"
SPLITS = {"train_All.csv": "train", "test_All.csv": "validation"}
FRAMES = "2_ClipsforFaceCrop"


def read(root: Path, tally: Tally) -> Iterator[pa.Table]:
    """One table of `LABELS`, a row for each clip."""
    found = (each for name, split in SPLITS.items() for each in _listed(root / LISTS / name, split, tally))
    yield of_clips(found, tally, Media(root, FRAMES))


def _listed(path: Path, split: str, tally: Tally) -> Iterator[Annotation]:
    for where, cells in space_separated(path, ("clip", "label"), tally):
        name, expression = cells["clip"], class_of(CLASSES, cells["label"], where)
        if cells["label"] not in name.split("/")[:-1]:
            tally.drop("its path names another expression than its label", f"{where}: {name}")
            continue
        yield Annotation(name, name, split, where, expression)


DATASET = Dataset(
    title="FERV39k",
    files={
        f"{LISTS}/train_All.csv, {LISTS}/test_All.csv": "the labels: `Action/Happy/0267 Happy`",
        f"{FRAMES}/<scene>/<expression>/<clip>/": "the frames of each clip, cut to the face",
    },
    source="for research, by request at https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html",
    read=read,
    pictures=lambda root, rows: Media(root, FRAMES).pictures(rows),
    crops=lambda root: FileCrops(Media(root, FRAMES).find),
)
