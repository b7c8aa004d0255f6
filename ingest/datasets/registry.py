"""The labelled datasets, found by name. A new one is a module with a function `read` and a line here.

This module imports no dataset: the command line asks it for their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

DATASETS = {
    "affwild2": "ingest.datasets.affwild2",
    "synth": "ingest.datasets.affwild2",  # `mien synth` writes Aff-Wild2's layout
}
"""Name of a dataset -> module whose `read` takes the dataset's folder."""


def reader(name: str) -> Callable[[Path], Iterator[pa.Table]]:
    """The function that reads a folder of the dataset. It yields tables of `common.lake.schema.LABELS`, one for each
    annotated video or clip, sorted by name. Raises `UsageError` for a dataset that is not registered."""
    if name not in DATASETS:
        raise UsageError(f"no dataset {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    read: Callable[[Path], Iterator[pa.Table]] = import_module(DATASETS[name]).read
    return read
