"""Prints docs/options.md, from the configurations of the commands: `python docs/options.py`."""

from __future__ import annotations

from common.options_page import Chapter, to_markdown
from ingest.faces import FacesOptions, IngestConfig
from score.config import ScoreConfig
from train.recipe import Recipe, Selection

INTRO = """Generated from the configurations by `make docs`.

`mien ingest` and `mien score` take a key as `--set faces.decode.every=5`, any number of times, and a file of keys as
`--config FILE`. The file is YAML, with a section for each dot:

```yaml
faces:
  decode: {every: 5}
  detector: {threshold: 0.8}
```

The file stands above the defaults, the command's own options above the file, `--set` above all. A key that there is
not is refused, with the nearest that there is. `mien train` takes its keys from a recipe, which is such a file, and
behind it without `--set`: `mien train demo seed=1 mae.steps=800`."""

CHAPTERS = (
    Chapter(
        "mien score and mien ingest",
        "What finds the faces. Limits, and sizes of batches, change no row; any other value makes another model or "
        "another `ingest=...`. Scoring takes crops as the bundle wants them, whatever `faces.align` says.",
        FacesOptions,
        "faces",
    ),
    Chapter("mien score", "", ScoreConfig, without=("faces",)),
    Chapter("mien ingest", "", IngestConfig, without=("faces",)),
    Chapter("mien train", "The keys of a recipe. NAME is any name.", Recipe),
    Chapter("mien evaluate", "Which labels a bundle is compared with: as its recipe says, unless named.", Selection),
)


def page() -> str:
    return to_markdown("Options", INTRO, CHAPTERS)


if __name__ == "__main__":
    print(page(), end="")
