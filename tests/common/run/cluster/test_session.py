"""A Ray of our own, in a process of its own: where it listens, what it leaves, and a start that never ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from common.errors import JobStalled
from common.run.cluster import session

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, psutil
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
    return {"result": result, "listening": listening, "inside": inside, "folder": folder}

before, folder = variables(), os.getcwd()
first, second = square(3), square(4)
assert os.getcwd() == folder
left = [process.name() for process in psutil.Process().children(recursive=True)]
print(json.dumps({"first": first, "second": second, "before": before, "after": variables(), "left": left}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a program says that starts Ray twice."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    support = os.path.join(os.path.dirname(__file__), "..", "..", "..", "support")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | {"PYTHONPATH": support},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # and so nothing else is on stdout


def test_it_listens_on_the_loopback_alone(told: dict[str, Any]) -> None:
    assert set(told["first"]["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert told["first"]["listening"]


def test_its_token_and_its_other_variables_end_with_it(told: dict[str, Any]) -> None:
    assert len(told["first"]["inside"]["RAY_AUTH_TOKEN"]) == 64
    assert told["before"] == told["after"] == {}


def test_one_process_may_start_it_twice_and_no_process_is_left(told: dict[str, Any]) -> None:
    assert (told["first"]["result"], told["second"]["result"]) == (9, 16)
    assert told["left"] == []


def test_the_driver_works_from_an_empty_folder_meanwhile(told: dict[str, Any]) -> None:
    assert told["first"]["folder"] != os.getcwd()


def test_a_cluster_that_accepts_and_never_answers_ends_the_job_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "START_S", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = session.Session(f"127.0.0.1:{port}")
        began = time.monotonic()
        try:
            with pytest.raises(JobStalled, match="Ray did not start within 3 s: run the command again"):
                started.start()
        finally:
            started.end()
        assert time.monotonic() - began < 60
