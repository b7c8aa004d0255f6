"""Finds the face of a lake that each annotation belongs to.

Labels are joined to faces by the name of the video (its URI without folder and extension) and by frame_index. If an
annotation is of one of two people (`subject`: left or right), it belongs to the track that is on that side in all
frames with both. If a frame has several faces and nothing says which one was annotated, its labels are dropped and
counted, never guessed. An annotation of a whole clip belongs to each frame of its longest track: a dataset of clips
shows one person in each, and what else was found there is a passer-by or a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Join:
    """How many annotated frames and clips of all splits there are, and what became of them."""

    labels: int
    joined: int
    without_face: int
    ambiguous: int  # several faces, or several labels, and no way to choose


def shipped_names(uris: Iterable[str], labels: pd.DataFrame) -> dict[str, str]:
    """Of faces that a dataset ships: URI -> the `video` of `labels` that it ends with, its extension left out.

    These faces are of the annotated track itself, also where its video shows two people.
    """
    videos = set(labels["video"])
    parts = max((video.count("/") for video in videos), default=0) + 1

    def name(uri: str) -> str:
        end = "/".join(uri.split("/")[-parts:])
        return end if end in videos else str(PurePosixPath(end).with_suffix(""))

    return {uri: name(uri) for uri in uris}


def subjects(labels: pd.DataFrame) -> pd.Series:
    """The side of each row's person. Where Aff-Wild2 has video59 and video59_right, video59 is the left one."""
    sides = labels.dropna(subset="subject").groupby("base_video")["subject"].unique()
    other = {base: _OTHER[found[0]] for base, found in sides.items() if len(found) == 1}
    return labels["subject"].fillna(labels["base_video"].map(other))


def join_labels(faces: pd.DataFrame, labels: pd.DataFrame) -> tuple[NDArray[np.int64], Join]:
    """int64 [N]: for each face its row of `labels`, -1 for none; and the counts.

    faces: video, video_id, frame_index, track_id, box_x0, box_x1. labels: base_video, subject, frame_index (missing
    where a whole clip is annotated), with a number per row as its index.
    """
    seen = faces.assign(face=np.arange(len(faces)), centre=(faces["box_x0"] + faces["box_x1"]) / 2)
    # If two videos of an archive have the same name, nothing says which one was annotated.
    videos = seen.groupby("video")["video_id"].nunique()
    seen["shared_name"] = seen["video"].isin(videos.index[videos > 1])
    seen["side"] = _sides(seen)
    rows = labels[["base_video", "subject", "frame_index"]].assign(label=np.arange(len(labels)))
    rows["of_clip"] = rows["frame_index"].isna()
    seen["longest"] = _longest(seen) if rows["of_clip"].any() else False
    pairs = _by_frame(rows, seen).merge(seen, left_on=["base_video", "frame_index"], right_on=["video", "frame_index"])
    named = pairs["subject"].notna()
    pairs = pairs[~pairs["of_clip"] | pairs["longest"] | named]
    named = named[pairs.index]
    alone = pairs.groupby(["label", "frame_index"])["face"].transform("size") == 1
    fits = np.where(named, pairs["side"] == pairs["subject"], alone) & ~pairs["shared_name"]
    found = pairs[fits]
    # If a face has two annotations, or an annotation two faces of a frame, none of them is used.
    once = ~found.duplicated("face", keep=False) & ~found.duplicated(["label", "frame_index"], keep=False)
    found = found[once]
    result = np.full(len(faces), -1, np.int64)
    result[found["face"]] = found["label"]
    with_face, joined = pairs["label"].nunique(), found["label"].nunique()
    return result, Join(len(labels), joined, len(labels) - with_face, with_face - joined)


def _by_frame(rows: pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    """The labels with a row for each frame of an annotated clip, in place of the clip's one row."""
    clips = rows["of_clip"]
    if not clips.any():
        return rows
    frames = seen[["video", "frame_index"]].drop_duplicates().rename(columns={"video": "base_video"})
    return pd.concat([rows[~clips], rows[clips].drop(columns="frame_index").merge(frames, on="base_video")])


def _longest(seen: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each face is of its video's track with the most faces; of several, of the one with the lowest number."""
    sizes = seen.groupby(["video_id", "track_id"])["face"].transform("size")
    largest = sizes == sizes.groupby(seen["video_id"]).transform("max")
    tracks = seen["track_id"].where(largest)
    return (tracks == tracks.groupby(seen["video_id"]).transform("min")).to_numpy()


def _sides(seen: pd.DataFrame) -> NDArray[np.object_]:
    """For each face "left" or "right" if its track is there in all its frames that have exactly two faces, else ""."""
    frame, track = ["video_id", "frame_index"], ["video_id", "track_id"]
    couples = seen[seen.groupby(frame)["face"].transform("size") == 2]
    on_left = couples.groupby(frame)["centre"].rank(method="first") == 1
    shares = on_left.groupby([couples[key] for key in track]).mean()
    share = shares.reindex(pd.MultiIndex.from_frame(seen[track])).to_numpy()
    return np.select([share == 1, share == 0], ["left", "right"], "").astype(object)
