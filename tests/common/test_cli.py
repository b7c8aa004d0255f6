"""The frame of the command: which commands there are, and how each of them may end."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import common
from common import cli
from common.cli import JobOptions, emit_json, job_options
from common.errors import StoreError, UsageError

ROOT = Path(__file__).resolve().parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMANDS]


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a distribution with one command, `name`, whose module is `source`."""

    parts = [part for part in cli._entries() if part != "probe"]
    monkeypatch.setattr(cli.Commands, "list_commands", lambda self, ctx: sorted(set(cli._entries()) - set(parts)))

    def make(name: str, source: str | None) -> None:
        module = f"part_{name}_{tmp_path.name.replace('-', '_')}"
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{cli.COMMANDS}]\n{name} = {module}:command\n")
        if source is not None:
            (tmp_path / f"{module}.py").write_text("import click\n" + source)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    return make


def ending(install: Callable[[str, str], None], body: str) -> None:
    install("probe", f"@click.command()\ndef command():\n    'Try.'\n    {body}\n")


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mien: ")
    return line.removeprefix("mien: ")


def test_an_installed_parts_command_is_listed_with_its_help_and_runs(
    install: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ending(install, "click.echo('done')")
    assert cli.main(["--help"]) == 0
    assert any(line.split() == ["probe", "Try."] for line in capsys.readouterr().out.splitlines())
    assert cli.main(["probe"]) == 0
    assert capsys.readouterr().out == "done\n"


def test_a_part_that_is_not_there_is_left_out_of_help(
    install: Callable[[str, str | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("probe", None)
    assert cli.main(["--help"]) == 0
    assert "probe" not in capsys.readouterr().out
    assert cli.main(["probe"]) == 2
    assert "No such command 'probe'" in sentence(capsys)


@pytest.mark.parametrize("source", ["import nowhere_to_be_found\n", "from os import nothing_like_it\n"])
def test_what_a_part_itself_lacks_is_not_swallowed(
    install: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], source: str
) -> None:
    install("probe", source)
    assert cli.main(["probe"]) == 1
    line = sentence(capsys)
    assert line.startswith("unexpected ")
    assert "nowhere_to_be_found" in line or "nothing_like_it" in line


def test_help_follows_the_way_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cli, "_entries", lambda: dict.fromkeys(["zebra", "sql", "score", "aardvark", "ingest", "synth"])
    )
    context = click.Context(cli.mien)
    assert cli.mien.list_commands(context) == ["synth", "ingest", "score", "sql", "aardvark", "zebra"]


@pytest.mark.parametrize("name", DECLARED)
def test_a_declared_command_is_what_its_module_holds(name: str) -> None:
    module, _, attribute = DECLARED[name].partition(":")
    if not ROOT.joinpath(*module.split(".")).with_suffix(".py").exists():
        pytest.skip(f"{module} is not built")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    assert name in cli.ORDER


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mien {common.__version__}\n"


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (
            "from common.errors import UsageError; raise UsageError('there is no x: name another')",
            2,
            "there is no x: name another",
        ),
        ("from common.errors import StoreError; raise StoreError('disk\\n full')", 1, "disk full"),
        (
            "raise ZeroDivisionError('by nought')",
            1,
            "unexpected ZeroDivisionError: by nought (run `mien --debug ...` to see where it came from)",
        ),
        ("raise EOFError", 1, "unexpected EOFError (run `mien --debug ...` to see where it came from)"),
        (
            "raise KeyboardInterrupt",
            130,
            "interrupted: what was committed stays, run the command again to go on",
        ),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    install: Callable[[str, str], None],
    capsys: pytest.CaptureFixture[str],
    body: str,
    status: int,
    expected: str,
) -> None:
    ending(install, body)
    assert cli.main(["probe"]) == status
    assert sentence(capsys) == expected


@pytest.mark.parametrize(("body", "status"), [("return 3", 3), ("raise SystemExit(3)", 3), ("pass", 0)])
@pytest.mark.parametrize("via_context", [False, True])
def test_a_command_says_its_status_by_returning_it_or_by_exiting(
    install: Callable[[str, str], None], body: str, status: int, via_context: bool
) -> None:
    ending(install, "click.get_current_context().exit(3)" if via_context and status else body)
    if "SystemExit" in body and not via_context:
        with pytest.raises(SystemExit, match="3"):
            cli.main(["probe"])
    else:
        assert cli.main(["probe"]) == status


def test_debug_shows_the_traceback_without_secrets(
    install: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-in-the-mine")
    ending(install, "from common.errors import StoreError; raise StoreError('refused canary-in-the-' + 'mine')")
    assert cli.main(["--debug", "probe"]) == 1
    written = capsys.readouterr().err
    assert "Traceback (most recent call last)" in written
    assert "StoreError: refused" in written
    assert "canary-in-the-mine" not in written
    assert cli.main(["probe"]) == 1
    assert "canary" not in sentence(capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dbug"], "No such option '--dbug'. Did you mean '--debug'? (see `mien --help`)"),
        (["nonsense"], "No such command 'nonsense' (see `mien --help`)"),
        (["prob"], "No such command 'prob'. Did you mean 'probe'? (see `mien --help`)"),
        (
            ["probe", "--wrokers", "2"],
            "No such option '--wrokers'. Did you mean '--workers'? (see `mien probe --help`)",
        ),
        (["probe", "--workers", "no"], "Invalid value for '--workers': 'no' is not a valid integer range"),
        (["probe"], "Missing option '--lake'"),
        (["probe", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1"),
        (["probe", "--config", "/none.yaml"], "Invalid value for '--config': File '/none.yaml' does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    install: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    install(
        "probe", "from common.cli import job_options\n@click.command()\n@job_options\ndef command(options):\n    pass\n"
    )
    assert cli.main(arguments) == 2
    assert sentence(capsys).startswith(expected)


def test_without_arguments_the_help_is_shown_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage: mien" in capsys.readouterr().err


def run_job(*arguments: str) -> tuple[JobOptions, str]:
    seen: list[Any] = []

    @click.command()
    @click.argument("source")
    @job_options
    def job(source: str, options: JobOptions) -> None:
        """Do it."""
        seen.extend((options, source))

    done = CliRunner().invoke(job, arguments, catch_exceptions=False, standalone_mode=False)
    assert done.exit_code == 0
    return seen[0], seen[1]


def test_a_jobs_options_arrive_together(tmp_path: Path) -> None:
    assert run_job("src", "--lake", "s3://b/lake") == (JobOptions(lake="s3://b/lake", archive="main"), "src")
    config = tmp_path / "c.yaml"
    config.touch()
    options, _ = run_job(
        *("src", "--lake", "lake", "--archive", "clips", "--retry-failed", "missing"),
        *("--limit", "3", "--workers", "2", "--dry-run", "--json"),
        *("--config", str(config), "--set", "a.b=1", "--set", "c=2"),
    )
    assert options == JobOptions(
        lake="lake",
        archive="clips",
        retry_failed="missing",
        limit=3,
        workers=2,
        dry_run=True,
        json=True,
        config=config,
        overrides=("a.b=1", "c=2"),
    )


def test_a_reason_that_no_video_can_have_failed_for_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'src' is no reason, name none or one of not_video"):
        run_job("--lake", "lake", "--retry-failed", "src")


def test_retry_failed_without_a_reason_means_every_reason() -> None:
    options, source = run_job("--lake", "lake", "src", "--retry-failed")
    assert (options.retry_failed, source) == ("", "src")


def test_the_summary_is_one_line_of_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"planned": 2, "wall_s": float("nan"), "where": Path("/x"), "name": "ü\n"})
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"planned": 2, "wall_s": None, "where": "/x", "name": "ü\n"}


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path: Path) -> None:
    program = (
        "import sys, click\nfrom common import cli\n"
        "@cli.mien.command('probe')\ndef probe():\n"
        "    for number in range(100_000): click.echo(number)\n"
        "cli.Commands.get_command = lambda self, ctx, name: probe\n"
        "sys.exit(cli.main(['probe']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1


@pytest.mark.parametrize("beside", ["pass", "threading.Thread(target=time.sleep, args=(60,)).start()"])
def test_ctrl_c_ends_a_running_command_at_once_with_130(beside: str) -> None:
    program = (
        "import sys, threading, time, click\nfrom common import cli\n"
        "@cli.mien.command('probe')\ndef probe():\n"
        f"    {beside}; print('on', flush=True); time.sleep(60)\n"
        "cli.Commands.get_command = lambda self, ctx, name: probe\n"
        "sys.argv = ['mien', 'probe']; cli.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(2)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("mien: interrupted")
    assert "Traceback" not in errors


def test_errors_know_their_status() -> None:
    assert UsageError("x").exit_code == 2
    assert StoreError("x").exit_code == 1
