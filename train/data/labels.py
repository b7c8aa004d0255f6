"""The labels of a dataset, and which of its videos train and which validate in a fold of cross-validation."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from common.errors import UsageError
from common.join import subjects
from common.lake.committed import committed
from common.lake.layout import Lake
from common.lake.parts import read_footer
from common.tasks import TASKS
from train.data.sources import DataOptions

Splits = dict[str, tuple[set[str], set[str]]]
"""By task, the names of the videos that train it, and of those that validate it."""


def read(lake: Lake, dataset: str | None, where: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The dataset's name with the digest of its rows (or an object's version, if it does not say), and its rows.

    `where`: the section of the recipe that names it. Raises UsageError unless the lake has it, or has just one.
    """
    partitions = {partition["dataset"]: partition for partition in lake.partitions("labels")}
    if dataset is None and len(partitions) == 1:
        dataset = next(iter(partitions))
    if dataset not in partitions:
        if not partitions:
            raise UsageError(f"the lake {lake.url} has no labels: run `mien label` first")
        has = "labels of several datasets" if dataset is None else f"no labels of the dataset {dataset}"
        raise UsageError(
            f"the lake {lake.url} has {has}: set {where}.dataset to one of {', '.join(sorted(partitions))}"
        )
    tables, content = [], []
    for part in committed(lake, "labels", partitions[dataset]):
        with lake.store.open_input(part.key) as file:
            tables.append(pq.ParquetFile(file).read().to_pandas())
            content.append(read_footer(file).get("mien.content", part.version))
    labels = pd.concat(tables, ignore_index=True)
    labels["subject"] = subjects(labels)
    return {"dataset": dataset, "labels_content": content}, labels


def in_fold(labels: pd.DataFrame, fold: int, dataset: str) -> pd.DataFrame:
    """The labels with the splits of a fold of cross-validation.

    Fold 0 is the official split. In another, the videos of that `fold` validate and all others train, of those that the
    official split trains or validates on. Raises UsageError for a fold that the dataset does not have.
    """
    if not fold:
        return labels
    if fold not in set(labels["fold"]):
        have = ", ".join(map(str, sorted({0, *labels["fold"].dropna().astype(int)})))
        raise UsageError(f"the dataset {dataset} has no fold {fold}: set data.fold to one of {have}")
    columns = [f"split_{task}" for task in TASKS]
    split = np.where(labels["fold"] == fold, "validation", "train")
    return labels.assign(
        **{name: labels[name].where(~labels[name].isin(["train", "validation"]), split) for name in columns}
    )


def named(labels: pd.DataFrame, data: DataOptions) -> Splits:
    """The videos with training labels and those with validation labels whose names match the patterns of `data`."""

    def of(task: str, split: str, pattern: str) -> set[str]:
        names = labels.loc[labels[f"split_{task}"] == split, "base_video"].unique()
        return {name for name in names if fnmatchcase(name, pattern)}

    return {task: (of(task, "train", data.train), of(task, "validation", data.validation)) for task in TASKS}
