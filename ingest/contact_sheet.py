"""`mien label --check`: some pictures of each class beside its name, so that a wrong order of classes is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import UsageError
from common.labels import ACTION_UNITS, ALL_EXPRESSIONS
from ingest.datasets.dataset import Row, Tally
from ingest.labelling import opened

SIDE = 112  # px of a picture on the sheet
SHOWN = 10  # pictures of a class
EMPTY = 235  # grey of a place without a picture
_USED = ["video", "base_video", "frame_index", "clip", "expression", *ACTION_UNITS]


@dataclass(frozen=True)
class Sheet:
    """counts: class -> how many annotations it has. picture: uint8 [classes * SIDE, SHOWN * SIDE, 3], RGB: a row of
    pictures for each class, in the order of `counts`."""

    title: str
    counts: dict[str, int]
    picture: NDArray[np.uint8]

    def save(self, out: Path) -> None:
        """Writes it as PNG, with the classes' names. Raises UsageError if `out` cannot be written."""
        figure = Figure(figsize=(SHOWN + 2.5, len(self.counts) * 1.02 + 0.6), layout="constrained")
        axis = figure.subplots()
        axis.imshow(self.picture)
        names = [f"{name}\n{count:,}" for name, count in self.counts.items()]
        axis.set_yticks(np.arange(len(names)) * SIDE + SIDE / 2, names)
        axis.set_xticks([])
        axis.set_title(self.title, loc="left", fontsize=11)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        try:
            figure.savefig(out, dpi=100, format="png")
        except OSError as error:
            raise UsageError(
                f"the sheet {out} cannot be written: {error.strerror}, name another with --check"
            ) from None


def sheet(dataset: str, root: Path) -> Sheet:
    """Some pictures of each class of a dataset. Raises UsageError for one that cannot be read or has none to show."""
    source = opened(dataset, root)
    tables = [table.select(_USED) for table in source.read(root, Tally())]
    classes = list(_classes(pa.concat_tables(tables)))
    if not classes:
        raise UsageError(f"the labels in {root} have no expression and no action unit: there is no class to show")
    pictures = iter(source.pictures(root, [row for _, _, rows in classes for row in rows]))
    tiles = [[next(pictures) for _ in rows] for _, _, rows in classes]
    if all(tile is None for row in tiles for tile in row):
        raise UsageError(
            f"the labelled pictures are not in {root}: `mien label {dataset} --describe` says where they belong"
        )
    counts = {name: count for name, count, _ in classes}
    return Sheet(f"{source.title}, some faces of each class as it is labelled", counts, _mosaic(tiles))


def _classes(labels: pa.Table) -> Iterator[tuple[str, int, list[Row]]]:
    """Each class that is annotated: its name, how often, and some of its rows, the same ones in each run."""
    masks: dict[str, Any] = {name: pc.equal(labels["expression"], name) for name in ALL_EXPRESSIONS}
    masks |= {f"{unit} active": pc.equal(labels[unit], 1) for unit in ACTION_UNITS}
    for name, mask in masks.items():
        found = np.flatnonzero(pc.fill_null(mask, False).to_numpy())
        if len(found):
            some = np.sort(np.random.default_rng(0).permutation(found)[:SHOWN])
            yield name, len(found), labels.take(pa.array(some)).to_pylist()


def _mosaic(tiles: list[list[NDArray[np.uint8] | None]]) -> NDArray[np.uint8]:
    """The picture of a `Sheet`; each tile is fitted into a square."""
    result = np.full((len(tiles) * SIDE, SHOWN * SIDE, 3), EMPTY, np.uint8)
    for line, row in enumerate(tiles):
        for column, tile in enumerate(row):
            if tile is not None:
                scale = SIDE / max(tile.shape[:2])
                height, width = (max(1, round(side * scale)) for side in tile.shape[:2])
                y, x = line * SIDE, column * SIDE
                smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
                result[y : y + height, x : x + width] = cv2.resize(tile, (width, height), interpolation=smooth)
    return result
