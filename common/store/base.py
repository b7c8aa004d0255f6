"""What all kinds of storage share: the settings for S3, an object as it is listed, and the interface of a backend."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from common import environment


@dataclass(frozen=True)
class StoreSettings:
    """How to reach S3. Credentials come from the environment or the AWS credential chain only."""

    endpoint_url: str | None = None
    region: str | None = None

    @classmethod
    def from_env(cls) -> StoreSettings:
        """`MIEN_S3_ENDPOINT` or `AWS_ENDPOINT_URL`; `AWS_REGION` or `AWS_DEFAULT_REGION`."""
        return cls(
            endpoint_url=environment.MIEN_S3_ENDPOINT.get() or environment.AWS_ENDPOINT_URL.get(),
            region=environment.AWS_REGION.get() or environment.AWS_DEFAULT_REGION.get(),
        )


@dataclass(frozen=True)
class Entry:
    """An object: its key below the store's root, its size in bytes, its version.

    The version is S3's ETag without quotes, or `<size>-<modification time in ns>` of a local file.
    """

    key: str
    size: int
    version: str


class Backend(Protocol):
    """What each kind of storage implements; `Store` documents the methods."""

    def list(self, prefix: str) -> Iterator[Entry]: ...
    def stat(self, key: str) -> Entry | None: ...
    def read_versioned(self, key: str) -> tuple[bytes, str]: ...
    def download(self, key: str, path: Path, version: str | None) -> None: ...
    def open_input(self, key: str) -> BinaryIO: ...
    def put(self, key: str, data: bytes | Path, version: str | None) -> str: ...
    def delete(self, keys: Iterable[str]) -> None: ...
    def check_writable(self) -> None: ...
    def sweep(self) -> None: ...


def file_version(found: os.stat_result) -> str:
    """The version of a local file, from its `os.stat`: size and modification time."""
    return f"{found.st_size}-{found.st_mtime_ns}"
