"""The command `mien`: finds the commands of all parts, and turns their errors into one sentence and an exit status.

Commands are entry points of the group `mien.commands`, imported when they are called; so this module imports no part.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import update_wrapper
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click

import common
from common.errors import MienError

COMMANDS = "mien.commands"
INTERRUPTED = 130
# Not made from SRC: otherwise a video that is named in two ways would be in two archives, and counted twice.
ARCHIVE = "main"
# The order of commands in `mien --help`: those that process data, then those that look after a lake.
ORDER = (
    *("synth", "ingest", "label", "train", "evaluate", "import", "export", "score"),
    *("status", "report", "sql", "plot", "overlay", "erase", "compact", "reconcile", "doctor"),
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class JobOptions:
    """The options that all jobs over an archive share.

    `retry_failed`: None for no, "" for all failed videos, or a reason. `on`: where workers run, "local" or "ray".
    """

    lake: str
    archive: str = ARCHIVE
    retry_failed: str | None = None
    limit: int | None = None
    workers: int | None = None
    on: str | None = None
    dry_run: bool = False
    json: bool = False
    config: Path | None = None
    overrides: tuple[str, ...] = ()


def job_options(function: F) -> F:
    """Adds the options of a job to a command; it gets them as the keyword argument `options`, a `JobOptions`."""

    names = {field.name for field in fields(JobOptions)}

    def known_reason(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value:
            from common.lake.schema import REASONS

            if value not in REASONS:
                raise click.BadParameter(f"{value!r} is no reason, name none or one of {', '.join(REASONS)}")
        return value

    def command(*args: Any, **given: Any) -> Any:
        from common.arrow import without_pandas

        without_pandas()
        options = JobOptions(**{name: given.pop(name) for name in names})
        return function(*args, options=options, **given)

    wrapped = cast(F, update_wrapper(command, function))
    at_least_one = click.IntRange(min=1)
    config_file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in reversed(
        (
            click.option("--lake", required=True, metavar="LAKE", help="Folder or s3://bucket/prefix of the lake."),
            click.option(
                "--archive",
                default=ARCHIVE,
                show_default=True,
                metavar="NAME",
                help="The archive of the lake that the videos belong to: those that it has stay, new ones are added.",
            ),
            click.option(
                "--retry-failed",
                is_flag=False,
                flag_value="",
                metavar="[REASON]",
                callback=known_reason,
                help="Try failed videos again.",
            ),
            click.option("--limit", type=at_least_one, metavar="N", help="Take no more than N new videos."),
            click.option("--workers", type=at_least_one, metavar="N", help="Work with N workers. [default: one a CPU]"),
            click.option(
                "--on",
                type=click.Choice(["local", "ray"]),
                help="Work in processes of this machine or on Ray. [default: ray if RAY_ADDRESS is set, else local]",
            ),
            click.option("--dry-run", is_flag=True, help="Print the plan and do nothing."),
            click.option("--json", is_flag=True, help="Print a summary as one JSON object, last on stdout."),
            click.option("--config", type=config_file, metavar="FILE", help="Read the configuration from a YAML file."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key of the configuration."
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


def emit_json(summary: Mapping[str, Any]) -> None:
    """Prints the summary as one line of JSON on stdout: the last thing that a command prints. NaN becomes null."""
    from pydantic_core import to_json

    click.echo(to_json(dict(summary), inf_nan_mode="null").decode())


class Commands(click.Group):
    """The commands of the installed parts, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        rank = {name: position for position, name in enumerate(ORDER)}
        return sorted(_entries(), key=lambda name: (rank.get(name, len(rank)), name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _entries().get(cmd_name)
        if entry is None:
            return None
        try:
            command: click.Command = entry.load()
        except ModuleNotFoundError as error:
            if error.name not in (entry.module, entry.module.partition(".")[0]):
                raise
            return None  # this part is not installed; a missing dependency of a part is raised above
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click suggests only commands that it has imported, and has imported none.
            known = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=known, ctx=ctx) from None


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=COMMANDS)}


@dataclass
class _Settings:
    debug: bool = False


@click.group("mien", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(common.__version__, prog_name="mien", message="%(prog)s %(version)s")
@click.pass_context
def mien(ctx: click.Context, debug: bool) -> None:
    """Read what the faces in video archives express, into tables of one row per face and frame."""
    from common import log

    ctx.obj.debug = debug
    log.configure()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: what it returned or 0, 1 failed, 2 wrong usage, 130 interrupted.

    An error is one sentence on stderr, without a traceback unless `--debug` was given.
    """
    settings = _Settings()
    try:
        return invoke(sys.argv[1:] if arguments is None else arguments, settings)
    except click.exceptions.Exit as end:
        return end.exit_code
    except KeyboardInterrupt:
        _say("interrupted: what was committed stays, run the command again to go on")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has ended (`mien sql ... | head`): the last flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _say(_in_one_sentence(error))
        return error.exit_code
    except Exception as error:
        if settings.debug:
            _show_traceback(error)
        elif isinstance(error, MienError):
            _say(str(error))
        else:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _say(f"unexpected {what} (run `mien --debug ...` to see where it came from)")
        return error.exit_code if isinstance(error, MienError) else 1


def invoke(arguments: Sequence[str], settings: _Settings | None = None) -> int:
    """Runs a command and returns what it returned, or 0. Raises its errors."""
    with mien.make_context("mien", list(arguments), obj=settings or _Settings()) as context:
        result = mien.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0


def _in_one_sentence(error: click.ClickException) -> str:
    sentence = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{sentence} (see `{context.command_path} --help`)" if context is not None else sentence


def _say(sentence: str) -> None:
    from common import log

    click.echo("mien: " + " ".join(log.redact(sentence).split()), err=True)


def _show_traceback(error: Exception) -> None:
    import traceback

    from common import log

    click.echo(log.redact("".join(traceback.format_exception(error)).rstrip()), err=True)


def run() -> NoReturn:
    """The program: ends the process with `main`'s status. After an interrupt it does not wait for other threads."""
    status = main()
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if status == INTERRUPTED and not all(thread.daemon for thread in others):
        sys.stderr.flush()
        os._exit(status)  # safe: a commit may be killed at any point
    sys.exit(status)


if __name__ == "__main__":
    run()
