"""Ray clusters as an operator starts them, for as long as a block lasts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.support.s3_server import free_port, s3_environment

OPTIONS = (
    *("--node-ip-address=127.0.0.1", "--block", "--object-store-memory=200000000", "--disable-usage-stats"),
    *("--min-worker-port=0", "--max-worker-port=0"),
)


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """Gives the environment in which a command runs on the cluster.

    Its nodes have credentials for S3, as a role would give them, and do not know where S3 is. They can import the toys
    of the tests.
    """
    with ray_nodes(1, cpus=2) as (environment, _):
        yield environment


@contextmanager
def ray_nodes(count: int, cpus: int) -> Iterator[tuple[dict[str, str], list[subprocess.Popen[bytes]]]]:
    """The same with several nodes, each of which is a process and its children; the first is the head."""
    port = free_port()
    credentials = {key: value for key, value in s3_environment("").items() if key.startswith("AWS_")}
    environment = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    ours = {"MIEN_S3_ENDPOINT": "", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parent)}
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):  # one after the other, as raylets that start at once may choose the same ports
            place = ("--head", f"--port={port}", "--include-dashboard=false")
            joining = (f"--address=127.0.0.1:{port}",)
            command = [Path(sys.executable).parent / "ray", "start", *(joining if number else place), *OPTIONS]
            nodes.append(
                subprocess.Popen(
                    [*command, f"--num-cpus={cpus}"],
                    env=os.environ | environment | credentials | ours,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
            _wait_until_started(nodes[-1])
        yield environment, nodes
    finally:
        for node in nodes:
            with suppress(psutil.NoSuchProcess):
                for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                    process.kill()
            node.wait()


def _wait_until_started(node: subprocess.Popen[bytes]) -> None:
    assert node.stdout is not None
    told = b""
    while b"runtime started" not in told:
        line = node.stdout.readline()
        assert line, f"the node did not start: {told.decode()}"
        told += line
