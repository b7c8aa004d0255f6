"""Fixtures that every part's tests share: the real files, and one real S3 server a session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = Path(os.environ.get("MIEN_TEST_DATA", ROOT.parent / "shared" / "data"))


def _folder(name: str) -> Path:
    folder = TEST_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no test files: {folder} is absent (set MIEN_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def clips() -> Path:
    return _folder("clips")


@pytest.fixture(scope="session")
def odd() -> Path:
    return _folder("odd")


@pytest.fixture(scope="session")
def images() -> Path:
    return _folder("images")


@pytest.fixture(scope="session")
def weights() -> Path:
    return _folder("weights")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_s3_server(port: int) -> subprocess.Popen[bytes]:
    """A ministack process on `port`, answering."""
    server = subprocess.Popen(
        [Path(sys.executable).parent / "ministack"],
        env=os.environ | {"GATEWAY_PORT": str(port)},
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a running S3 server; the environment points at it."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "MIEN_S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in settings}
    server = start_s3_server(port)
    os.environ.update(settings)
    yield endpoint
    server.kill()
    server.wait()
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """`s3://<fresh bucket>`."""
    import botocore.session

    bucket = f"t-{uuid.uuid4().hex[:16]}"
    session = botocore.session.Session()
    client = session.create_client("s3", region_name="us-east-1", endpoint_url=s3_server)
    client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
