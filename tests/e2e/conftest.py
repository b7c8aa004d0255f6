"""An archive and a bundle that the end-to-end tests share: made by the commands, as a user makes them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import mien

from benchmarks.support.s3_server import free_port, make_bucket, s3_environment, start_s3_server


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled clips of two seconds."""
    out = tmp_path_factory.mktemp("synth") / "clips"
    done = mien("synth", out, "--videos", 4, "--seconds", 2, "--seed", 5)
    assert done.status == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def archive(dataset: Path) -> Path:
    return dataset / "videos"


@pytest.fixture(scope="session")
def ingested(dataset: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the faces and labels of the archive."""
    lake = tmp_path_factory.mktemp("ingested")
    for command in (("ingest", archive), ("label", "synth", dataset)):
        done = mien(*command, "--lake", lake)
        assert done.status == 0, done.stderr
    return lake


@pytest.fixture(scope="session")
def bundle(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a few steps: what it says is of no use, but every part of it is real."""
    out = tmp_path_factory.mktemp("trained") / "bundle"
    steps = ("mae.steps=10", "finetune.steps=20", "heads.temporal.steps=5")
    # Of both sorts of heads: those that take windows, and one that takes each face by itself.
    frame = "heads.frame={tasks: [expr], steps: 5, batch: 32, lr: 1.0e-3, model: {kind: linear}}"
    heads = ("heads.temporal.tasks=[va, au]", frame)
    done = mien("train", "demo", *steps, *heads, "--lake", ingested, "--out", out)
    assert done.status == 0, done.stderr
    return out


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
