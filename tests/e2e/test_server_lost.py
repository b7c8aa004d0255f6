"""`mien score` against an S3 server that dies in the middle of a run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from commands import start

from common.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def test_a_server_that_dies_is_tried_again_then_named_in_one_sentence(
    archive: Path, bundle: Path, lone_s3_server: subprocess.Popen[bytes]
) -> None:
    store = Store("s3://archive")
    for clip in archive.glob("*.mp4"):
        store.create(f"clips/{clip.name}", clip)
    run = start("score", "s3://archive/clips", "--lake", "s3://archive/lake", "--model", bundle, "--workers", 1)
    deadline = time.monotonic() + 120
    while not any(entry.key.endswith(".parquet") for entry in store.list("lake/_staging/")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(store.list("lake/scores/")) == []
    lone_s3_server.kill()
    lost = time.monotonic()
    _, stderr = run.communicate(timeout=200)
    assert time.monotonic() - lost < 180
    assert run.returncode == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("mien: ")
    assert "reach" in last
    assert "Traceback" not in stderr
