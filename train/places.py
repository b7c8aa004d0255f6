"""Where a training writes: its bundle, what it shows on its way, and what it needs to go on after a cut."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.bundle import folder
from common.errors import UsageError
from common.store.store import Store


@dataclass(frozen=True)
class Places:
    """`out`: the folder of the bundle. `work`: the folder of logs and pictures. `store`: of checkpoints and results."""

    out: Path
    work: Path
    store: Store

    @classmethod
    def named(cls, out: Path, work: str | Path | None) -> Places:
        """As --out and --work name them. Where --work is a URL, or not given, logs and pictures go to `<out>.train`.

        Raises UsageError for a URL that no Store takes.
        """
        out = Path(os.path.abspath(out))
        beside = Path(f"{out}.train")
        store = Store(str(beside if work is None else work))
        return cls(out, Path(store.url) if store.is_local else beside, store)

    def check_out(self) -> None:
        """Raises UsageError where the bundle or `work` could not be written: it would fail after hours."""
        folder.check_destination(self.out)
        if self.out in (self.work, *self.work.parents):
            raise UsageError(f"the work folder {self.work} lies in the bundle's, {self.out}: name another with --work")
        _probe(self.out, self.out.parent, "--out")
        _probe(self.work, next(each for each in (self.work, *self.work.parents) if each.exists()), self._option)

    def make(self) -> None:
        """Makes the folder `work`, and the one that `out` is to be in. Raises what `check_work` raises."""
        _probe(self.out, self.out.parent, "--out")
        self.check_work()

    def check_work(self) -> None:
        """Makes the folder `work`. Raises UsageError if that fails, StoreError if the store cannot be written."""
        _probe(self.work, self.work, self._option)
        self.store.check_writable()

    @property
    def _option(self) -> str:
        """The option that names `work`."""
        return "--work" if self.store.is_local else "--out"


def _probe(wanted: Path, home: Path, option: str) -> None:
    """Makes and removes a folder in `home`, the only sure test that one can be made there. Raises `UsageError`."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=f".{wanted.name}.", dir=home))
    except OSError as error:
        raise UsageError(
            f"the folder {wanted} cannot be written: {error.strerror}, name another with {option}"
        ) from None
