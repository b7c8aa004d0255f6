"""Fixtures that every part's tests share: the real files, one real S3 server a session, a web server."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pandas  # noqa: F401  # before a command that keeps pyarrow from it is called in this process
import pytest
from ray_cluster import ray_cluster
from xdist.scheduler import LoadFileScheduling

from benchmarks.support.s3_server import free_port, make_bucket, s3_environment, start_s3_server

# No test may depend on how fast the machine is.
hypothesis.settings.register_profile("mien", deadline=None)
hypothesis.settings.load_profile("mien")

ON_CLUSTER = ("tests/e2e/test_score_on_ray.py", "tests/common/run/test_pools.py")
ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = Path(os.environ.get("MIEN_TEST_DATA", ROOT.parent / "shared" / "data"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _ByDearFixtures(config, log)


class _ByDearFixtures(LoadFileScheduling):
    """Tests that share dear fixtures run in one process: those of a file, and all that need the Ray cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith(ON_CLUSTER) else super()._split_scope(nodeid)


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a running S3 server; the environment points at it."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    settings = s3_environment(endpoint)
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


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which a command runs on a Ray cluster, which is started once."""
    with ray_cluster() as environment:
        yield environment


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """`s3://<fresh bucket>`."""
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    make_bucket(s3_server, bucket)
    return f"s3://{bucket}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", folder
    httpd.shutdown()
    httpd.server_close()
