"""Where a recipe's faces and labels come from: keys of its sections `data` and `mae.data`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config import Config


class Source(Config):
    """Which labels and faces of a lake to use."""

    dataset: str | None = Field(None, description="labels of this dataset; the only one in the lake unless named")
    archive: str | None = Field(None, description="faces of this archive; the only one in the lake unless named")
    faces: Literal["ingested", "shipped"] | None = Field(
        None, description="faces that mien found, or crops that the dataset ships; whichever there are unless named"
    )
    ingest: str | None = Field(None, description="faces of this ingest configuration; the only one unless named")


class Selection(Source):
    """The same, with the videos to validate on."""

    fold: int = Field(
        0,
        ge=0,
        le=4,
        description="of cross-validation: 0 is the official split; in 1 to 4 the videos with this fold in `labels` "
        "validate and all others train",
    )
    validation: str = Field("*", description="labels of validation videos with such names, a pattern like sub_*")


class DataOptions(Selection):
    """The same, with a pattern for the videos to train on."""

    train: str = Field("*", description="labels of training videos with such names, a pattern")


class MaeSource(Source):
    """Faces for pretraining: those of a dataset's training videos or, as no labels are needed, all of an archive."""

    dataset: str | None = Field(None, description="its training videos alone; null: all faces of the archive")
    train: str = Field("*", description="training videos with such names, a pattern; only with a dataset")

    @model_validator(mode="after")
    def _labelled(self) -> MaeSource:
        if self.dataset is None and self.train != "*":
            raise ValueError("should name the dataset whose training videos train chooses from")
        return self
