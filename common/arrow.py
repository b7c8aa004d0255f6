"""pyarrow without pandas, in processes that need none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas:
    """An import hook that finds no pandas."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not imported here", name=name)
        return None


def without_pandas() -> None:
    """Keeps pyarrow from importing pandas when it makes its first array, which takes most of a second.

    pyarrow looks for pandas once: `to_pandas` fails from then on in this process. Does nothing if pandas is imported.
    """
    if "pandas" in sys.modules:
        return
    hook = _NoPandas()
    sys.meta_path.insert(0, hook)
    try:
        import pyarrow

        pyarrow.array([])
    finally:
        sys.meta_path.remove(hook)
