"""A Ray cluster as an operator starts it, for as long as a block lasts."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.support.s3_server import free_port, s3_environment

OPTIONS = ("--num-cpus=2", "--object-store-memory=200000000", "--include-dashboard=false", "--disable-usage-stats")


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """Gives the environment in which a command runs on the cluster.

    Its nodes have credentials for S3, as a role would give them, and do not know where S3 is. They can import the toys
    of the tests.
    """
    port = free_port()
    credentials = {key: value for key, value in s3_environment("").items() if key.startswith("AWS_")}
    environment = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    ours = {"MIEN_S3_ENDPOINT": "", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parent)}
    command = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1"]
    head = subprocess.Popen(
        [*command, *OPTIONS, "--block"],
        env=os.environ | environment | credentials | ours,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_listening(port, head)
        yield environment
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()


def _wait_until_listening(port: int, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert server.poll() is None, "the cluster did not start"
            assert time.monotonic() < deadline, "the cluster does not listen"
            time.sleep(0.1)
