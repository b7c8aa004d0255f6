"""`mien train --on ray`: the processes of a training are Ray workers, on any number of nodes.

Each runs the very command that was given. The driver starts them, and starts them again when one of them is lost.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass

import click

from common import cli, environment
from common.errors import UsageError
from common.run.cluster import group, session
from common.run.pool import check_installation, installation
from common.store.store import Store
from train import interruption
from train.checkpoint import COMPLETE
from train.places import Places
from train.processes import PATIENCE


def run(workers: int, words: Sequence[str], places: Places) -> int:
    """Runs `mien <words>` in so many workers, and prints what the first of them says on stdout.

    Ctrl-C and SIGTERM are passed on. Raises the MienError of a worker, and UsageError for folders of `places` that are
    not on its node.
    """
    places.make()
    address, here = environment.RAY_ADDRESS.get(), os.getcwd()
    with _marks(places) as marks, session.running(address), interruption.awaited() as request:
        variables = environment.elsewhere() | environment.logs(as_text=sys.stderr.isatty())
        options = group.GroupOptions(
            workers, PATIENCE, variables, progress=lambda: _kept(places.store), asked=lambda: request.made
        )
        click.echo(group.run(Command(tuple(words), here, marks, installation()), options), nl=False)
    return 0


@dataclass(frozen=True)
class Command:
    """The task of a worker; relative paths in `words` are of the folder `here`."""

    words: tuple[str, ...]
    here: str
    marks: tuple[str, ...]
    installation: dict[str, str]

    def __call__(self, say: group.Say) -> str:
        """Returns what the command wrote to stdout. The first worker says what it writes to stderr."""
        check_installation(self.installation)
        for mark in self.marks:
            if not os.path.exists(mark):
                raise UsageError(
                    f"the folder {os.path.dirname(mark)} is not the same on the node {platform.node()}: name folders "
                    "that all nodes see with --out and --work"
                )
        with suppress(OSError):
            os.chdir(self.here)
        heard = _Writer(say) if environment.RANK.get() == "0" else io.StringIO()
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(heard):
            try:
                cli.invoke(self.words)
            except click.ClickException as error:
                raise UsageError(error.format_message()) from None
        return printed.getvalue()

    def end(self) -> None:
        interruption.ask()


class _Writer(io.TextIOBase):
    def __init__(self, say: group.Say) -> None:
        self._say = say

    def write(self, text: str) -> int:
        self._say(text)
        return len(text)


@contextmanager
def _marks(places: Places) -> Iterator[tuple[str, ...]]:
    """Files that a worker finds where it sees the folders that this process sees."""
    with ExitStack() as stack:
        folders = {places.out.parent, places.work}
        yield tuple(
            stack.enter_context(tempfile.NamedTemporaryFile(prefix=".mien-", dir=each)).name for each in folders
        )


def _kept(store: Store) -> set[str]:
    """The complete checkpoints and the results of stages."""
    keys = (entry.key for entry in store.list())
    return {key for key in keys if key.endswith(f"/{COMPLETE}") or ("/" not in key and key.endswith(".safetensors"))}
