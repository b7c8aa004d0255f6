"""A study: the training runs behind a published table. Each variant of one recipe is trained on some of the folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from common import config
from common.config import Config
from common.errors import UsageError
from train import recipe as recipe_
from train.recipe import Recipe

FILE = "study.json"
SUFFIXES = (".yaml", ".yml")

Fold = Annotated[int, Field(ge=0)]
Key = Annotated[str, Field(pattern=r"^[^=]+=")]

AFFECT = {
    "valence": "ccc_valence",
    "arousal": "ccc_arousal",
    "mean VA": "ccc_mean",
    "expression": "f1_expression",
    "action units": "f1_action_units",
}
"""The columns of a table unless its study names others."""


class Variant(Config):
    """One form of the recipe: the whole model, or the model without one of its parts."""

    title: str = Field(description="of its rows in the table")
    folds: tuple[Fold, ...] = Field((0,), min_length=1, description="folds that it is trained on, a run each")
    set: tuple[Key, ...] = Field((), description="keys of the recipe that differ, as KEY=VALUE")
    published: dict[Fold | Literal["mean"], dict[str, float]] = Field(
        {}, description="by fold, metrics of the publication by name; mean: those over all folds"
    )


class Study(Config):
    """A table of runs. `docs/options.md` has the keys of recipes."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    title: str = Field(description="what the table is about")
    source: str = Field(description="the publication that it repeats, and where its published values are from")
    recipe: str = Field(description="name or file of the recipe")
    set: tuple[Key, ...] = Field((), description="keys of the recipe that differ in all runs, as KEY=VALUE")
    columns: dict[str, str] = Field(
        AFFECT, min_length=1, description="of the table: headings, and the metric below each"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="each run once for each")
    variants: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Variant] = Field(min_length=1)

    def runs(self) -> Iterator[Run]:
        """All runs, in the order of the table."""
        for name, variant in self.variants.items():
            for fold in variant.folds:
                for seed in self.seeds:
                    yield Run(self, name, fold, seed)


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    study: Study = field(compare=False)
    variant: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """The folder of its bundle."""
        seed = f"-seed{self.seed}" if len(self.study.seeds) > 1 else ""
        return f"{self.variant}-fold{self.fold}{seed}"

    def recipe(self) -> Recipe:
        """Raises UsageError for keys that the recipe does not have."""
        keys = (*self.study.set, *self.study.variants[self.variant].set)
        own = (f"name={self.study.name}-{self.name}", f"data.fold={self.fold}", f"seed={self.seed}")
        return recipe_.load(self.study.recipe, (*keys, *own))


def names() -> list[str]:
    """The studies that come with mien."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml"))


def is_study(name: str) -> bool:
    """Whether a name or a YAML file is a study's and not a recipe's."""
    if Path(name).suffix not in SUFFIXES:
        return name in names()
    try:
        return "variants" in (yaml.safe_load(Path(name).read_text("utf-8")) or ())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError):
        return False  # whoever reads it as a recipe says what is wrong


def load(name: str, keys: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
    """The study of a name in `train/studies` or in a YAML file; `keys` of the recipe are set in all of its runs.

    Raises UsageError, also for keys that are no recipe's: the recipe of each variant and fold is built once.
    """
    file = Path(name) if Path(name).suffix in SUFFIXES else Path(str(_shipped() / f"{name}.yaml"))
    study = config.load(Study, file, ())
    study = study.model_copy(update={"set": (*study.set, *keys), "seeds": tuple(seeds) or study.seeds})
    for run in study.runs():
        if run.seed == study.seeds[0]:
            run.recipe()
    return study


def is_folder(name: str) -> bool:
    """Whether this is a folder of a study's bundles."""
    return (Path(name) / FILE).is_file()


def stored(folder: Path) -> Study:
    """The study whose runs are in a folder. Raises UsageError for a file that is no study's."""
    try:
        return Study.model_validate_json((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{folder / FILE} is damaged: train the study to {folder} again, no run is repeated") from None


def _shipped() -> resources.abc.Traversable:
    return resources.files("train") / "studies"
