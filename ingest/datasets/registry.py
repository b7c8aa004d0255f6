"""The labelled datasets, found by name. A new one is a module with a `DATASET` and a line here.

This module imports no dataset: the command line asks it for their names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from common.errors import UsageError

if TYPE_CHECKING:
    from ingest.datasets.dataset import Dataset

DATASETS = {
    "affwild2": "ingest.datasets.affwild2",
    "affectnet": "ingest.datasets.affectnet",
    "rafdb": "ingest.datasets.rafdb",
    "fer2013": "ingest.datasets.fer2013",
    "ferplus": "ingest.datasets.ferplus",
    "dfew": "ingest.datasets.dfew",
    "ferv39k": "ingest.datasets.ferv39k",
    "mafw": "ingest.datasets.mafw",
    "synth": "ingest.datasets.affwild2",  # `mien synth` writes Aff-Wild2's layout
}
"""Name of a dataset -> module with its `DATASET`."""


def dataset(name: str) -> Dataset:
    """Raises `UsageError` for a dataset that is not registered."""
    if name not in DATASETS:
        raise UsageError(f"no dataset {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    found: Dataset = import_module(DATASETS[name]).DATASET
    return found
