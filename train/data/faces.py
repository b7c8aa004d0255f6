"""The faces of an archive as the encoder's input, with what was annotated of each (`common.join`) and its split."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common import log
from common.errors import NotFound
from common.join import Join, join_labels, shipped_names
from common.lake.format import check_existing
from common.lake.layout import Lake, Partition
from common.tasks import TASKS, Task
from train.data import labels as labels_
from train.data.crops import CropReader, Crops, Pictures
from train.data.faceless import Faceless, faceless
from train.data.sources import DataOptions

_SHOWN = 5  # videos that a warning names
_EVERY_EXPRESSION = replace(TASKS["expr"], outputs=TASKS["expr"].known, further=())


@dataclass(frozen=True, eq=False)
class FaceSet:
    """N faces, sorted by video, track and frame.

    video: int32 [N], number in `names`; track_id, frame_index: int32 [N]; time_s: float64 [N]. labels: by task, the
    targets that `common.tasks` makes of annotations, a row for each face. train, validation: by task, bool [N], the
    faces of videos of that split and pattern; no video is in both. withheld: videos with training labels that the
    encoder must not see, because they validate a task. picture: int64 [N], the index of each face in `crops`. stated:
    by task, how many annotations the dataset has. fold: of cross-validation. annotation: int32 [N], the annotated track
    whose label a face has, numbered as in `faceless`, -1 for none. expression: int64 [N], the annotated class by its
    place in `known` of the task, those that no head of frames has included, -1 for none. of_clip: bool [N], whether a
    face's label is that of its whole clip. origin: the bundle's record of the data.
    """

    crops: Crops
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
    annotation: NDArray[np.int32]
    expression: NDArray[np.int64]
    of_clip: NDArray[np.bool_]
    faceless: Faceless
    stated: dict[str, int]
    fold: int
    source: Partition
    origin: dict[str, Any]

    def __len__(self) -> int:
        return len(self.video)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(rows), C, s, s]."""
        return self.crops.images(self.picture[rows])

    def pictures(self, chosen: NDArray[np.bool_]) -> Pictures:
        return Pictures(((self.crops, self.picture[chosen]),))

    def annotated(self, task: str) -> NDArray[np.bool_]:
        """bool [N]: the faces with a label of the task, from the split that their video is in."""
        return TASKS[task].annotated(self.labels[task])

    def for_encoder(self) -> NDArray[np.bool_]:
        """bool [N]: the faces of videos that train a task and validate none, because all tasks share the encoder."""
        return np.any(list(self.train.values()), axis=0) & ~np.any(list(self.validation.values()), axis=0)


def read(reader: CropReader, data: DataOptions, where: str = "data") -> FaceSet:
    """All committed faces of an archive with their labels. `where`: the section of the recipe that `data` is from.

    Raises UsageError: the lake lacks either, or has several, or the dataset has no such fold.
    """
    lake = reader.lake
    check_existing(lake)
    dataset, labels = labels_.read(lake, data.dataset, where)
    labels = labels_.in_fold(labels, data.fold, dataset["dataset"])
    source = reader.partition(data, where)
    crops = reader.crops(source)
    videos = _named_shipped(crops.videos, labels) if source.shipped else _named(crops.videos)
    picture, faces = _sorted(crops.keys, videos, source)
    named = labels_.named(labels, data)
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
    log.get("train").info("labels joined", dataset=dataset["dataset"], **join.__dict__)
    trains, validates = (set().union(*sets) for sets in zip(*named.values(), strict=True))
    _warn_of_longer_labels(known, crops, source)
    video, names = pd.factorize(faces["video"], sort=True)
    annotation = pd.factorize(known["video"])[0].astype(np.int32)
    validation = {task: held_out for task, (_, held_out) in splits.items()}

    def members(which: int) -> dict[str, NDArray[np.bool_]]:
        return {task: np.isin(names, list(sets[which]))[video] for task, sets in splits.items()}

    return FaceSet(
        crops=crops,
        picture=picture,
        names=tuple(names),
        video=video.astype(np.int32),
        track_id=faces["track_id"].to_numpy(np.int32),
        frame_index=faces["frame_index"].to_numpy(np.int32),
        time_s=faces["time_s"].to_numpy(np.float64),
        labels={name: _values(task, known, joined, splits[name]) for name, task in TASKS.items()},
        train=members(0),
        validation=members(1),
        withheld=tuple(sorted(trains & validates & set(faces["video"]))),
        join=join,
        annotation=np.append(annotation, np.int32(-1))[joined],
        expression=_values(_EVERY_EXPRESSION, known, joined, splits["expr"]),
        of_clip=np.append(known["frame_index"].isna().to_numpy(), False)[joined],
        faceless=faceless(known, joined, validation, annotation, pd.Index(names)),
        stated={name: int(task.annotated(task.targets(known)).sum()) for name, task in TASKS.items()},
        fold=data.fold,
        source=source,
        origin={"faces": str(source), "ingest": _ingest(lake, source), **dataset},
    )


def _named(videos: pd.DataFrame) -> pd.DataFrame:
    """The videos with `name`, by which labels find their faces, and `video`, the same."""
    names = [PurePosixPath(uri).stem for uri in videos["uri"]]
    return videos.assign(name=names, video=names)


def _named_shipped(videos: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Videos whose faces a dataset ships, with `name`, by which labels find them, and `video`, whose splits they share.

    Two people of one video are two tracks of it.
    """
    names = videos["uri"].map(shipped_names(videos["uri"], labels))
    base = labels.drop_duplicates("video").set_index("video")["base_video"]
    return videos.assign(name=names, video=names.map(base).fillna(names))


def _sorted(keys: pd.DataFrame, videos: pd.DataFrame, source: Partition) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The faces sorted by video, track and frame: the row of `keys` of each, and what joins it to labels."""
    number = keys["video"].to_numpy()
    track_id = pd.factorize(number)[0] if source.shipped else keys["track_id"].to_numpy()
    place = np.empty(len(videos), np.int64)
    place[videos.sort_values(["video", "video_id"]).index] = np.arange(len(videos))
    order = np.lexsort((keys["frame_index"], track_id, place[number]))
    names = {column: videos[column].to_numpy()[number[order]] for column in ("name", "video")}
    faces = keys.iloc[order].assign(video_id=number[order], track_id=track_id[order], **names)
    return order, faces.reset_index(drop=True)


def _values(task: Task, labels: pd.DataFrame, joined: NDArray[np.int64], videos: tuple[set[str], set[str]]) -> NDArray:
    """The target of each face: that of its label, if the label is from the split that its video is in.

    videos: the names of those that train the task and of those that validate it.
    """
    targets, (train, validation) = task.targets(labels), videos
    split, video = labels[f"split_{task.name}"], labels["base_video"]
    counts = (split == "train") & video.isin(train) | (split == "validation") & video.isin(validation)
    known = joined >= 0
    known[known] = counts.to_numpy()[joined[known]]
    values = np.full((len(joined), *targets.shape[1:]), task.missing, targets.dtype)
    values[known] = targets[joined[known]]
    return values


def _warn_of_longer_labels(labels: pd.DataFrame, crops: Crops, source: Partition) -> None:
    """Says which videos have labels for frames after their last one.

    Aff-Wild2's organisers count one frame more than many videos have. Where every n-th frame was ingested, up to n more
    may follow the last one.
    """
    if source.shipped:
        return
    labelled = labels.groupby("base_video")["frame_index"].max().dropna()
    longer = {}
    for uri, last, count in crops.videos[["uri", "last", "frames"]].itertuples(index=False):
        name = PurePosixPath(uri).stem
        if labelled.get(name, -1) > last + -(-(last + 1) // count):
            longer[name] = f"{int(labelled[name]) + 1} labelled, {last + 1} in the video"
    if longer:
        log.get("train").warning(
            "labels go on after the last frame of their video: is another video, or a part of it, ingested under that "
            "name?",
            videos=len(longer),
            frames=dict(list(longer.items())[:_SHOWN]),
        )


def _ingest(lake: Lake, source: Partition) -> Any:
    """The configuration of the job that made the faces, None if the lake has lost it."""
    try:
        return json.loads(lake.store.read(lake.config_key(source)))
    except NotFound:
        return None
