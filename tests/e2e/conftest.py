"""An archive, a bundle and scores that the end-to-end tests share: made by the commands, as a user makes them.

They are made once, also if the tests run in several processes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import mien, rows

from benchmarks.support.s3_server import free_port, make_bucket, s3_environment, start_s3_server

MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Gives the folder of a name, after the first process that asks for it has made it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        wanted, made = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                make(wanted)
                made.touch()
        return wanted

    return folder


@pytest.fixture(scope="session")
def dataset(once: MakeOnce) -> Path:
    """Four labelled clips of two seconds."""

    def make(out: Path) -> None:
        done = mien("synth", out, "--videos", 4, "--seconds", 2, "--seed", 5)
        assert done.status == 0, done.stderr

    return once("synth", make)


@pytest.fixture(scope="session")
def archive(dataset: Path) -> Path:
    return dataset / "videos"


@pytest.fixture(scope="session")
def ingested(dataset: Path, archive: Path, once: MakeOnce) -> Path:
    """A lake with the faces and labels of the archive."""

    def make(lake: Path) -> None:
        for command in (("ingest", archive), ("label", "synth", dataset)):
            done = mien(*command, "--lake", lake)
            assert done.status == 0, done.stderr

    return once("ingested", make)


@pytest.fixture(scope="session")
def bundle(ingested: Path, once: MakeOnce) -> Path:
    """Trained for a few steps: what it says is of no use, but every part of it is real."""
    steps = ("mae.steps=10", "finetune.steps=20", "heads.temporal.steps=5")
    # Of both sorts of heads: those that take windows, and one that takes each face by itself.
    frame = "heads.frame={tasks: [expr], steps: 5, batch: 32, lr: 1.0e-3, model: {kind: linear}}"
    heads = ("heads.temporal.tasks=[va, au]", frame)

    def make(out: Path) -> None:
        done = mien("train", "demo", *steps, *heads, "--lake", ingested, "--out", out)
        assert done.status == 0, done.stderr

    return once("bundle", make)


@pytest.fixture(scope="session")
def scored(archive: Path, bundle: Path, once: MakeOnce) -> Path:
    """The lake of an undisturbed run."""

    def make(lake: Path) -> None:
        done = mien("score", archive, "--lake", lake, "--model", bundle, "--json")
        assert done.status == 0, done.stderr
        assert done.summary["planned"] == done.summary["ok"] == 4
        assert done.summary["skipped"] == done.summary["failed"] == 0

    return once("scored", make)


@pytest.fixture(scope="session")
def golden(scored: Path) -> list[dict[str, Any]]:
    return rows(scored)


@pytest.fixture
def lone_s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server of the test's own with a bucket `archive`, to be killed; the environment points at it."""
    port = free_port()
    server = start_s3_server(port)
    endpoint = f"http://127.0.0.1:{port}"
    make_bucket(endpoint, "archive")
    for key, value in s3_environment(endpoint).items():
        monkeypatch.setenv(key, value)
    yield server
    server.kill()
    server.wait()
