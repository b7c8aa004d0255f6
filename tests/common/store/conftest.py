"""A store on S3 behind a proxy that does harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_proxy import FaultProxy

from common.store.base import StoreSettings
from common.store.store import Store


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(s3_server)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def shaky(proxy: FaultProxy, s3_url: str) -> Store:
    """A store on S3 behind the proxy."""
    return Store(s3_url, StoreSettings(proxy.endpoint, "us-east-1"))
