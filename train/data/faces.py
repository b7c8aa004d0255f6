"""The faces of an archive as the encoder's input, with what was annotated of each (`common.join`) and its split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common import config, log
from common.bundle.manifest import Preprocess
from common.errors import MienError, NotFound, UsageError
from common.faces import decoded_crops
from common.join import Join, join_labels, shipped_names, subjects
from common.lake.committed import committed
from common.lake.format import check_existing
from common.lake.layout import Lake, Partition
from common.lake.parts import read_footer
from common.tasks import TASKS
from train.models.preprocess import channels, prepare
from train.recipe import DataOptions, Selection

_KEYS = ["video_id", "uri", "frame_index", "time_s", "track_id", "box_x0", "box_x1"]
_BATCH = 512  # crops decoded at once


@dataclass(frozen=True, eq=False)
class FaceSet:
    """N faces, sorted by video, track and frame.

    video: int32 [N], number in `names`; track_id, frame_index: int32 [N]; time_s: float64 [N]. labels: by task, the
    targets that `common.tasks` makes of annotations, a row for each face. train, validation: by task, bool [N], the
    faces of videos of that split and pattern; no video is in both. withheld: videos with training labels that the
    encoder must not see, because they validate a task. pictures: uint8 [P, C, s, s], made by `prepare`, in the order of
    the parts; picture: int64 [N], the index of each face in `pictures`. origin: the bundle's record of the data.
    """

    pictures: NDArray[np.uint8]
    picture: NDArray[np.int64]
    names: tuple[str, ...]
    video: NDArray[np.int32]
    track_id: NDArray[np.int32]
    frame_index: NDArray[np.int32]
    time_s: NDArray[np.float64]
    labels: dict[str, NDArray]
    train: dict[str, NDArray[np.bool_]]
    validation: dict[str, NDArray[np.bool_]]
    withheld: tuple[str, ...]
    join: Join
    source: Partition
    origin: dict[str, Any]
    digest: str

    def __len__(self) -> int:
        return len(self.video)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(rows), C, s, s]."""
        return self.pictures[self.picture[rows]]

    def annotated(self, task: str) -> NDArray[np.bool_]:
        """bool [N]: the faces with a label of the task, from the split that their video is in."""
        return TASKS[task].annotated(self.labels[task])

    def for_encoder(self) -> NDArray[np.bool_]:
        """bool [N]: the faces of videos that train a task and validate none, because all tasks share the encoder."""
        return np.any(list(self.train.values()), axis=0) & ~np.any(list(self.validation.values()), axis=0)


def read(lake: Lake, data: DataOptions, preprocess: Preprocess, crop_size: int) -> FaceSet:
    """All committed faces of an archive with their labels. UsageError: the lake lacks either, or has several."""
    check_existing(lake)
    dataset, labels = _labels(lake, data.dataset)
    source = _partition(lake, data)
    parts = committed(lake, "faces", source)
    faces, pictures = _faces(lake, source, [part.key for part in parts], preprocess, crop_size)
    (_name_shipped if source.shipped else _name)(faces, labels)
    faces = faces.sort_values(["video", "video_id", "track_id", "frame_index"], kind="stable")
    picture = faces.index.to_numpy()
    faces = faces.reset_index(drop=True)
    labels["subject"] = subjects(labels)
    named = _named(labels, data)
    # A video with one person in each split is used for validation only: both have the same background, which a model
    # could learn with one person and recognise with the other.
    splits = {task: (train - validation, validation) for task, (train, validation) in named.items()}
    values = [column for task in TASKS.values() for column in task.label_columns]
    known = labels.dropna(how="all", subset=values).reset_index(drop=True)
    if source.shipped:
        tracks = faces.assign(video=faces["name"])
        joined, join = join_labels(tracks, known.assign(base_video=known["video"], subject=None))
    else:
        joined, join = join_labels(faces, known)
    log.get("train").info("labels joined", **join.__dict__)
    trains, validates = (set().union(*sets) for sets in zip(*named.values(), strict=True))
    withheld = tuple(sorted(trains & validates & set(faces["video"])))
    if withheld:
        log.get("train").warning("videos kept from the encoder's training, they validate a task", videos=withheld)
    video, names = pd.factorize(faces["video"], sort=True)

    def members(which: int) -> dict[str, NDArray[np.bool_]]:
        return {task: np.isin(names, list(sets[which]))[video] for task, sets in splits.items()}

    return FaceSet(
        pictures=pictures,
        picture=picture,
        names=tuple(names),
        video=video.astype(np.int32),
        track_id=faces["track_id"].to_numpy(np.int32),
        frame_index=faces["frame_index"].to_numpy(np.int32),
        time_s=faces["time_s"].to_numpy(np.float64),
        labels=_values(known, joined, splits),
        train=members(0),
        validation=members(1),
        withheld=withheld,
        join=join,
        source=source,
        origin={"faces": str(source), "ingest": _ingest(lake, source), **dataset},
        digest=config.digest({"labels": dataset, "faces": {part.key: part.version for part in parts}}),
    )


def _name(faces: pd.DataFrame, labels: pd.DataFrame) -> None:
    """Adds the column `video`: the name by which labels find the faces of a video."""
    faces["video"] = faces["uri"].map({uri: PurePosixPath(uri).stem for uri in faces["uri"].unique()})


def _name_shipped(faces: pd.DataFrame, labels: pd.DataFrame) -> None:
    """Adds to faces that a dataset ships `name`, by which labels find them, and `video`, whose splits they share.

    Two people of one video are two tracks of it.
    """
    faces["name"] = faces["uri"].map(shipped_names(faces["uri"].unique(), labels))
    base = labels.drop_duplicates("video").set_index("video")["base_video"]
    faces["video"] = faces["name"].map(base).fillna(faces["name"])
    faces["track_id"] = pd.factorize(faces["video_id"])[0]


Splits = dict[str, tuple[set[str], set[str]]]


def _named(labels: pd.DataFrame, data: DataOptions) -> Splits:
    """By task, the names of the videos with training labels and with validation labels that match the patterns."""

    def of(task: str, split: str, pattern: str) -> set[str]:
        names = labels.loc[labels[f"split_{task}"] == split, "base_video"].unique()
        return {name for name in names if fnmatchcase(name, pattern)}

    return {task: (of(task, "train", data.train), of(task, "validation", data.validation)) for task in TASKS}


def _values(labels: pd.DataFrame, joined: NDArray[np.int64], splits: Splits) -> dict[str, NDArray]:
    """By task, the target of each face: that of its label, if the label is from the split that its video is in."""
    found = {}
    for name, (train, validation) in splits.items():
        targets = TASKS[name].targets(labels)
        split, video = labels[f"split_{name}"], labels["base_video"]
        counts = (split == "train") & video.isin(train) | (split == "validation") & video.isin(validation)
        known = joined >= 0
        known[known] = counts.to_numpy()[joined[known]]
        found[name] = np.full((len(joined), *targets.shape[1:]), TASKS[name].missing, targets.dtype)
        found[name][known] = targets[joined[known]]
    return found


def _labels(lake: Lake, dataset: str | None) -> tuple[dict[str, Any], pd.DataFrame]:
    """The dataset's name and the digest of its rows (or an object's version, where it does not say), and the rows."""
    partitions = {partition["dataset"]: partition for partition in lake.partitions("labels")}
    if dataset is None and len(partitions) == 1:
        dataset = next(iter(partitions))
    if dataset not in partitions:
        if not partitions:
            raise UsageError(f"the lake {lake.url} has no labels: run `mien label` first")
        has = "labels of several datasets" if dataset is None else f"no labels of the dataset {dataset}"
        raise UsageError(f"the lake {lake.url} has {has}: set data.dataset to one of {', '.join(sorted(partitions))}")
    tables, content = [], []
    for part in committed(lake, "labels", partitions[dataset]):
        with lake.store.open_input(part.key) as file:
            tables.append(pq.ParquetFile(file).read().to_pandas())
            content.append(read_footer(file).get("mien.content", part.version))
    return {"dataset": dataset, "labels_content": content}, pd.concat(tables, ignore_index=True)


def _partition(lake: Lake, data: Selection) -> Partition:
    def wanted(partition: Partition) -> bool:
        kind = "shipped" if partition.shipped else "ingested"
        asked = ((data.archive, partition["archive"]), (data.ingest, partition["ingest"]), (data.faces, kind))
        return all(wish in (None, found) for wish, found in asked)

    every = lake.partitions("faces")
    found = [partition for partition in every if wanted(partition)]
    if len(found) == 1:
        return found[0]
    if not every:
        raise UsageError(f"the lake {lake.url} has no faces: run `mien ingest` on the videos first")
    have = "; ".join(", ".join(f"{key}={value}" for key, value in partition.keys) for partition in every)
    raise UsageError(
        f"data.archive, data.faces and data.ingest must name one set of faces of the lake {lake.url}, it has {have}"
    )


def _ingest(lake: Lake, source: Partition) -> Any:
    """The configuration of the job that made the faces, None if the lake has lost it."""
    try:
        return json.loads(lake.store.read(lake.config_key(source)))
    except NotFound:
        return None


def _faces(
    lake: Lake, source: Partition, parts: list[str], preprocess: Preprocess, size: int
) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """Keys and pictures of all faces in the order of the parts.

    Each picture is written once, into an array with a place for every row. Rows without a face leave places at the end
    unused; memory that is never written is not allocated.
    """
    room = 0
    for part in parts:
        with lake.store.open_input(part) as file:
            room += pq.ParquetFile(file).metadata.num_rows
    pictures = np.empty((room, channels(preprocess), preprocess.size, preprocess.size), np.uint8)
    tables, filled = [], 0
    for part in parts:
        for table, crops in _crops(lake, part, size):
            if filled + len(crops) > room:
                raise MienError(
                    f"the faces in {part} of the lake {lake.url} were replaced while they were read: start again"
                )
            pictures[filled : filled + len(crops)] = prepare(crops, preprocess)
            filled += len(crops)
            tables.append(table)
    if not filled:
        raise UsageError(f"no faces in {source} of the lake {lake.url}: run `mien ingest` on the videos first")
    return pd.concat(tables, ignore_index=True), pictures[:filled]


def _crops(lake: Lake, part: str, size: int) -> Iterator[tuple[pd.DataFrame, NDArray[np.uint8]]]:
    """The faces of a part in batches: their keys and their crops, uint8 [B, size, size, 3]."""
    with lake.store.open_input(part) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[*_KEYS, "crop"]):
            batch = batch.filter(batch["crop"].is_valid())
            if not len(batch):
                continue
            crops = decoded_crops(pa.Table.from_batches([batch]))
            if crops.shape[1:] != (size, size, 3):
                raise UsageError(f"the crops in {part} are {crops.shape[2]} px wide, the recipe's crop.size is {size}")
            yield batch.select(_KEYS).to_pandas(), crops
