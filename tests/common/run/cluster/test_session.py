"""A Ray of our own, in a process of its own: where it listens, what it leaves, and a start that never ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, psutil
from common import scratch
from common.run.cluster.pool import RayPool
from common.run.pool import PoolOptions
from toy_workers import MakeToy

def variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}

def square(number):
    with RayPool(MakeToy(), PoolOptions(workers=1)) as pool:
        (result,) = pool.map_parcels([("square", number)], lambda frames: None)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [found for process in processes for found in process.net_connections("inet")]
        listening = sorted({found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN})
        inside, folder = variables(), os.getcwd()
        sessions = [name for name in os.listdir(scratch.claim()) if name.startswith("session_")]
    return {"result": result, "listening": listening, "inside": inside, "folder": folder, "sessions": sessions}

before, folder = variables(), os.getcwd()
first, second = square(3), square(4)
assert os.getcwd() == folder
left = [process.name() for process in psutil.Process().children(recursive=True)]
print(json.dumps({"first": first, "second": second, "before": before, "after": variables(), "left": left}))
"""


SILENT = """
import json, os, socket, subprocess, sys, time
from common.errors import JobStalled
from common.run.cluster import session

session.START_S = session.SHUTDOWN_S = 3
bystander = subprocess.Popen(["sleep", "600"])
with socket.create_server(("127.0.0.1", 0)) as silent:
    started = session.Session(f"127.0.0.1:{silent.getsockname()[1]}")
    began = time.monotonic()
    try:
        started.start()
    except JobStalled as error:
        message = str(error)
    started.end()
    took = time.monotonic() - began
alive = bystander.poll() is None
bystander.kill()
print(json.dumps({"message": message, "took": took, "bystander alive": alive}))
"""


def said(program: str, **variables: str) -> dict[str, Any]:
    """What a program prints, run in a process of its own: one process knows one Ray and one token for good."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    support = os.path.join(os.path.dirname(__file__), "..", "..", "..", "support")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"PYTHONPATH": support} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # and so nothing else is on stdout


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a program says that starts Ray twice, and what it leaves of temporary files."""
    # A short path, as those of Ray's sockets may not be long: other tests move this process's own temporary folder.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        return said(PROGRAM, TMPDIR=folder) | {"files left": os.listdir(folder)}


@pytest.mark.soak
def test_it_listens_on_the_loopback_alone(told: dict[str, Any]) -> None:
    assert set(told["first"]["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert told["first"]["listening"]


@pytest.mark.soak
def test_its_token_and_its_other_variables_end_with_it(told: dict[str, Any]) -> None:
    assert len(told["first"]["inside"]["RAY_AUTH_TOKEN"]) == 64
    assert told["before"] == told["after"] == {}


@pytest.mark.soak
def test_one_process_may_start_it_twice_and_no_process_is_left(told: dict[str, Any]) -> None:
    assert (told["first"]["result"], told["second"]["result"]) == (9, 16)
    assert told["left"] == []


@pytest.mark.soak
def test_its_files_go_with_the_job(told: dict[str, Any]) -> None:
    assert len(told["second"]["sessions"]) >= 2
    assert told["files left"] == []


@pytest.mark.soak
def test_the_driver_works_from_an_empty_folder_meanwhile(told: dict[str, Any]) -> None:
    assert told["first"]["folder"] != os.getcwd()


def test_a_cluster_that_accepts_and_never_answers_ends_the_job_in_one_sentence() -> None:
    told = said(SILENT)
    assert told["message"] == "Ray did not start within 3 s: run the command again"
    assert told["took"] < 60
    assert told["bystander alive"], "processes that Ray did not start are not ours to kill"
