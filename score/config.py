"""The options of scoring, and the stored configurations that say how a lake's rows were made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from common.bundle.manifest import BundleManifest
from common.config import Config
from common.errors import NotFound
from common.lake.layout import Lake, Partition
from ingest.faces import FacesOptions, IngestConfig
from score.smooth import Smoothing
from score.stream import RESULTS

BY_DEFAULT = "defaults"


class ScoreConfig(Config):
    """The options of scoring. The sizes of batches change neither rows nor partitions."""

    faces: FacesOptions = FacesOptions()
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of the bundle's networks")
    smooth: Smoothing | None = Field(None, description="box:N: the mean of each track's predictions over N frames")
    batch_size: int = Field(64, ge=1, description="crops a call of the encoder")
    window_batch: int = Field(8, ge=1, description="windows a call of the heads")

    def fitted(self, bundle: BundleManifest) -> ScoreConfig:
        """The same options with the crops that the bundle takes, whatever was asked for."""
        return self.model_copy(update={"faces": self.faces.model_copy(update={"align": bundle.crop})})

    def identity(self, bundle: str, ingest: str | None) -> dict[str, Any]:
        """What decides the rows of `scores`: the id of the bundle, where faces come from, and these options."""
        return {
            "bundle": bundle,
            "results": RESULTS,
            "dtype": self.dtype,
            "smooth": self.smooth,
            "faces": self.faces.identity() if ingest is None else {"ingest": ingest},
        }


def stored(lake: Lake, partition: Partition) -> dict[str, Any] | None:
    """The stored configuration of a partition of faces or scores; None if it is lost."""
    try:
        config: dict[str, Any] = json.loads(lake.store.read(lake.config_key(partition)))
    except NotFound:
        return None
    return config


def made_with(config: Mapping[str, Any] | None) -> str:
    """How a stored configuration of faces or scores differs from the defaults, in the form of `--set`.

    The crop of scores is left out, as their bundle decides it.
    """
    if config is None:
        return "unknown"
    scores = "bundle" in config
    usual = ScoreConfig().identity(config["bundle"], None) if scores else IngestConfig().identity()
    known = dict(_flat(usual))
    said = [
        f"{key}={value}"
        for key, value in _flat(config)
        if value != known.get(key) and not (scores and key.startswith("faces.align."))
    ]
    return ", ".join(said) or BY_DEFAULT


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
