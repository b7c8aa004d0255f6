"""A real S3 server for tests and benchmarks: ministack in a process, on a free port."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from common import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_s3_server(port: int) -> subprocess.Popen[bytes]:
    """Starts a ministack process on `port` and waits until it answers."""
    server = subprocess.Popen(
        [Path(sys.executable).parent / "ministack"],
        env=environment.values() | {"GATEWAY_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError:
            return server
        except OSError:
            time.sleep(0.1)
        else:
            return server
    server.kill()
    raise RuntimeError("ministack did not answer within 30 s")


def make_bucket(endpoint: str, name: str) -> None:
    import botocore.session

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    session = botocore.session.Session()
    session.create_client("s3", region_name="us-east-1", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)


def s3_environment(endpoint: str) -> dict[str, str]:
    """The environment variables that make mien use the server."""
    return {
        "MIEN_S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
