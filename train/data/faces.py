"""Faces and labels of a lake, joined: every face of an archive as the encoder's input, with what was annotated of it.

Labels join faces by archive, name of the video (its URI without folder and extension) and frame_index. Where an
annotation is of one person of two (`subject`), the track that lies on that side whenever both are seen is meant. Where
a frame has several faces and nothing says which one is meant, its labels are dropped and counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import simplejpeg
from numpy.typing import NDArray

from common import log
from common.bundle import Preprocess
from common.errors import MienError, UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS, VALENCE_AROUSAL
from common.lake import Lake, Partition
from train.losses import NOT_ANNOTATED
from train.models.preprocess import prepare
from train.recipe import DataOptions

_KEYS = ["video_id", "uri", "frame_index", "time_s", "track_id", "box_x0", "box_x1"]
_BATCH = 512  # crops decoded at once


@dataclass(frozen=True)
class Join:
    """What became of the labels: rows in the table, joined to a face, without a face, without a clear face."""

    labels: int
    joined: int
    without_face: int
    ambiguous: int


@dataclass(frozen=True, eq=False)
class FaceSet:
    """N faces, sorted by video, track and frame.

    images: uint8 [N, C, s, s], what `prepare` makes; video: int32 [N], number in `names`; track_id, frame_index: int32
    [N]; time_s: float64 [N]. labels: "va" float32 [N, 2], NaN where not annotated; "expr" int64 [N], "au" int64
    [N, 12], -1 there. train, validation: by task, bool [N], the faces of videos of that split and pattern.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    video: NDArray[np.int32]
    track_id: NDArray[np.int32]
    frame_index: NDArray[np.int32]
    time_s: NDArray[np.float64]
    labels: dict[str, NDArray]
    train: dict[str, NDArray[np.bool_]]
    validation: dict[str, NDArray[np.bool_]]
    join: Join
    source: Partition

    def __len__(self) -> int:
        return len(self.video)

    def annotated(self, task: str) -> NDArray[np.bool_]:
        """bool [N]: the faces that have a label of the task."""
        labels = self.labels[task]
        known = ~np.isnan(labels) if task == "va" else labels != NOT_ANNOTATED
        return known if known.ndim == 1 else known.any(axis=1)

    def pretraining(self) -> NDArray[np.bool_]:
        """bool [N]: the faces of videos that train a task and validate none."""
        return np.any(list(self.train.values()), axis=0) & ~np.any(list(self.validation.values()), axis=0)


def read(lake: Lake, data: DataOptions, preprocess: Preprocess, crop_size: int) -> FaceSet:
    """All faces of the archive with their labels. Raises UsageError where the lake lacks either, or has several."""
    labels = _labels(lake, data.dataset)
    source = _partition(lake, data)
    parts = [entry.key for entry in lake.store.list(f"{source}/") if entry.key.endswith(".parquet")]
    frames, pictures = [], []
    for part in sorted(parts):
        for table, crops in _crops(lake, part, crop_size):
            frames.append(table)
            pictures.append(prepare(crops, preprocess))
    if not frames:
        raise UsageError(f"no faces in {source} of the lake {lake.url}: run `mien ingest` on the videos first")
    faces = pd.concat(frames, ignore_index=True)
    faces["video"] = [PurePosixPath(uri).stem for uri in faces["uri"]]
    order = faces.sort_values(["video", "video_id", "track_id", "frame_index"], kind="stable").index.to_numpy()
    faces = faces.loc[order].reset_index(drop=True)
    joined, join = join_labels(faces, labels)
    log.get("train").info("labels joined", **join.__dict__)
    return _face_set(np.concatenate(pictures)[order], faces, labels, joined, join, data, source)


def join_labels(faces: pd.DataFrame, labels: pd.DataFrame) -> tuple[NDArray[np.int64], Join]:
    """For each face the row of `labels` that is about it, -1 for none; int64 [N].

    faces: video, video_id, frame_index, track_id, box_x0, box_x1. labels: base_video, subject, frame_index, with a
    number per row as its index.
    """
    seen = faces.assign(face=np.arange(len(faces)), centre=(faces["box_x0"] + faces["box_x1"]) / 2)
    # Two videos of one name in an archive: nothing says which one was annotated.
    twins = seen.groupby("video")["video_id"].nunique()
    seen["twin"] = seen["video"].isin(twins.index[twins > 1])
    seen["side"] = _sides(seen)
    rows = labels[["base_video", "subject", "frame_index"]].assign(label=np.arange(len(labels)))
    pairs = rows.merge(seen, left_on=["base_video", "frame_index"], right_on=["video", "frame_index"])
    named = pairs["subject"].notna()
    alone = pairs.groupby("label")["face"].transform("size") == 1
    fits = np.where(named, pairs["side"] == pairs["subject"], alone) & ~pairs["twin"]
    found = pairs[fits]
    # Two annotations that end at one face contradict each other.
    once = ~found.duplicated("face", keep=False) & ~found.duplicated("label", keep=False)
    found = found[once]
    result = np.full(len(faces), -1, np.int64)
    result[found["face"]] = found["label"]
    with_face = pairs["label"].nunique()
    return result, Join(len(labels), len(found), len(labels) - with_face, with_face - len(found))


def _sides(seen: pd.DataFrame) -> NDArray[np.object_]:
    """For each face "left" or "right", if its track lies there in every frame that has exactly two faces, else ""."""
    frame, track = ["video_id", "frame_index"], ["video_id", "track_id"]
    couples = seen[seen.groupby(frame)["face"].transform("size") == 2]
    on_left = couples.groupby(frame)["centre"].rank(method="first") == 1
    shares = on_left.groupby([couples[key] for key in track]).mean()
    share = shares.reindex(pd.MultiIndex.from_frame(seen[track])).to_numpy()
    return np.select([share == 1, share == 0], ["left", "right"], "").astype(object)


def _labels(lake: Lake, dataset: str | None) -> pd.DataFrame:
    partitions = {dict(p.keys)["dataset"]: p for p in lake.partitions("labels")}
    if dataset is None and len(partitions) == 1:
        dataset = next(iter(partitions))
    if dataset not in partitions:
        have = f"it has {', '.join(sorted(partitions))}, set data.dataset" if partitions else "run `mien label` first"
        raise UsageError(
            f"the lake {lake.url} has no {'one' if dataset is None else dataset} dataset of labels: {have}"
        )
    tables = [_table(lake, entry.key) for entry in lake.store.list(f"{partitions[dataset]}/")]
    return pd.concat(tables, ignore_index=True)


def _table(lake: Lake, key: str) -> pd.DataFrame:
    with lake.store.open_input(key) as file:
        return pq.ParquetFile(file).read().to_pandas()


def _partition(lake: Lake, data: DataOptions) -> Partition:
    def wanted(partition: Partition) -> bool:
        keys = dict(partition.keys)
        return data.archive in (None, keys["archive"]) and data.ingest in (None, keys["ingest"])

    every = lake.partitions("faces")
    found = [partition for partition in every if wanted(partition)]
    if len(found) == 1:
        return found[0]
    if not every:
        raise UsageError(f"the lake {lake.url} has no faces: run `mien ingest` on the videos first")
    have = "; ".join(", ".join(f"{key}={value}" for key, value in partition.keys) for partition in every)
    raise UsageError(f"data.archive and data.ingest must name one set of faces of the lake {lake.url}, it has {have}")


def _crops(lake: Lake, part: str, size: int) -> Iterator[tuple[pd.DataFrame, NDArray[np.uint8]]]:
    """The faces of a part, some at a time: their keys and their crops, uint8 [B, size, size, 3]."""
    with lake.store.open_input(part) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[*_KEYS, "crop"]):
            batch = batch.filter(batch["crop"].is_valid())
            if not len(batch):
                continue
            try:
                crops = np.stack([simplejpeg.decode_jpeg(crop.as_py(), "RGB") for crop in batch["crop"]])
            except ValueError as error:
                raise MienError(f"a crop in {part} of the lake {lake.url} cannot be decoded: {error}") from None
            if crops.shape[1:] != (size, size, 3):
                raise UsageError(f"the crops in {part} are {crops.shape[2]} px wide, the recipe's crop.size is {size}")
            yield batch.select(_KEYS).to_pandas(), crops


def _face_set(
    images: NDArray[np.uint8],
    faces: pd.DataFrame,
    labels: pd.DataFrame,
    joined: NDArray[np.int64],
    join: Join,
    data: DataOptions,
    source: Partition,
) -> FaceSet:
    known = joined >= 0

    def of_faces(values: NDArray, otherwise: float) -> NDArray:
        out = np.full((len(faces), *values.shape[1:]), otherwise, values.dtype)
        out[known] = values[joined[known]]
        return out

    numbers = {name: number for number, name in enumerate(EXPRESSIONS)}
    units = labels[list(ACTION_UNITS)].to_numpy(np.float64, na_value=np.nan)
    video, names = pd.factorize(faces["video"], sort=True)

    def split(task: str, which: str, pattern: str) -> NDArray[np.bool_]:
        chosen = labels.loc[labels[f"split_{task}"] == which, "base_video"].unique()
        return np.isin(video, [n for n, name in enumerate(names) if name in chosen and fnmatchcase(name, pattern)])

    return FaceSet(
        images=images,
        names=tuple(names),
        video=video.astype(np.int32),
        track_id=faces["track_id"].to_numpy(np.int32),
        frame_index=faces["frame_index"].to_numpy(np.int32),
        time_s=faces["time_s"].to_numpy(np.float64),
        labels={
            "va": of_faces(labels[list(VALENCE_AROUSAL)].to_numpy(np.float32, na_value=np.nan), np.nan),
            "expr": of_faces(labels["expression"].map(numbers).fillna(NOT_ANNOTATED).to_numpy(np.int64), NOT_ANNOTATED),
            "au": of_faces(np.where(np.isnan(units), NOT_ANNOTATED, units).astype(np.int64), NOT_ANNOTATED),
        },
        train={task: split(task, "train", data.train) for task in ("va", "expr", "au")},
        validation={task: split(task, "validation", data.validation) for task in ("va", "expr", "au")},
        join=join,
        source=source,
    )
