"""Prints docs/options.md, from the configurations of the commands: `python docs/options.py`."""

from __future__ import annotations

from common.options_page import Chapter, to_markdown
from ingest.faces import FacesOptions, IngestConfig
from ingest.shipped import ShippedConfig
from score.config import ScoreConfig
from train.data.sources import Selection
from train.recipe import Recipe

INTRO = """Generated from the configurations by `make docs`.

`mien ingest` and `mien score` take a key as `--set faces.decode.every=5`, any number of times, and a file of keys as
`--config FILE`. The file is YAML; dots in a key become nested sections:

```yaml
faces:
  decode: {every: 5}
  detector: {threshold: 0.8}
```

`--set` overrides the command's own options, which override the file, which overrides the defaults. An unknown key is
refused, and the most similar known key is named. `mien train` takes a recipe, which is such a file, and after it keys
without `--set`: `mien train demo seed=1 mae.steps=800`."""

CHAPTERS = (
    Chapter(
        "mien score and mien ingest",
        "How faces are found. Limits and sizes of batches change no row; any other value makes another model or "
        "another `ingest=...`. Scoring always uses the bundle's crops, whatever `faces.align` says.",
        FacesOptions,
        "faces",
    ),
    Chapter("mien score", "", ScoreConfig, without=("faces",)),
    Chapter("mien ingest", "", IngestConfig, without=("faces",)),
    Chapter("mien ingest --shipped", "", ShippedConfig),
    Chapter("mien train", "The keys of a recipe. NAME is any name.", Recipe),
    Chapter("mien evaluate", "The labels that a bundle is compared with; those of its recipe by default.", Selection),
)


def page() -> str:
    return to_markdown("Options", INTRO, CHAPTERS)


if __name__ == "__main__":
    print(page(), end="")
