"""S3 behind the `Store`, by single API calls through s3fs: no listing cache, no multipart, retries in this module.

s3fs would retry by itself and hide the cause. And if the answer to a put is lost, the repeated put is refused with 412,
because the object exists. So each call here is one request, this module repeats it, and every put stores a random mark
in the object's metadata, by which it recognises its own object (AWS: "Conditional writes").
"""

from __future__ import annotations

import functools
import io
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import botocore.exceptions
import s3fs
from fsspec.asyn import sync

from common.disk import speaking
from common.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError
from common.store.base import Entry, StoreSettings
from common.store.s3_errors import NotS3, may_pass, refusal, require

PATIENCE_S = 45.0  # a call is not tried again once this much time has passed
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 20}
SINGLE_PUT_BYTES = 5 << 30
_CHUNK = 8 << 20
_MARK = "mien-put"
_REFUSED = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503, "AccessDenied": 403}
T = TypeVar("T")


@functools.lru_cache(maxsize=8)
def _connect(settings: StoreSettings, pid: int) -> s3fs.S3FileSystem:
    """One connection pool per process and endpoint, used by all threads through fsspec's event loop."""
    filesystem = s3fs.S3FileSystem(
        endpoint_url=settings.endpoint_url,
        client_kwargs={"region_name": settings.region} if settings.region else {},
        config_kwargs={
            **TIMEOUTS,
            "max_pool_connections": 64,
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path" if settings.endpoint_url else "auto"},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    filesystem.retries = 1
    return filesystem


class S3Objects:
    """`url` is s3://bucket[/prefix]; a version is an ETag without its quotes."""

    def __init__(self, url: str, settings: StoreSettings) -> None:
        self.settings = settings
        self.bucket, _, prefix = url[5:].partition("/")
        self.prefix = f"{prefix}/" if prefix else ""

    def list(self, prefix: str) -> Iterator[Entry]:
        token: dict[str, str] = {}
        while True:
            page = self._retrying("list", prefix, functools.partial(self._page, prefix, token))
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # S3 consoles put such an object to show an empty folder
                    yield Entry(found["Key"][len(self.prefix) :], found["Size"], _version(found))
            if not page["IsTruncated"]:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def _page(self, prefix: str, token: dict[str, str]) -> Any:
        page = await self._request("list_objects_v2", Prefix=self.prefix + prefix, **token)
        require(page, "IsTruncated", *(["NextContinuationToken"] if page.get("IsTruncated") else []))
        for found in page.get("Contents", ()):
            require(found, "Key", "Size", "ETag")
        return page

    def stat(self, key: str) -> Entry | None:
        try:
            head = self._head(key)
        except NotFound:
            return None
        return Entry(key, head["ContentLength"], _version(head))

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        data, answer = self._get(key)
        return data, _version(answer)

    def download(self, key: str, path: Path, version: str | None) -> None:
        head = self._head(key)
        if version not in (None, _version(head)):
            raise PreconditionFailed(f"{self._where(key)} has changed: run again to list it anew")
        with speaking("write", str(path)), open(path, "wb") as file:
            size = head["ContentLength"]
            for start in range(0, size, _CHUNK):
                file.write(self.read_range(key, start, min(_CHUNK, size - start), _version(head)))

    def open_input(self, key: str) -> BinaryIO:
        head = self._head(key)
        return io.BufferedReader(_Ranges(self, key, head["ContentLength"], _version(head)), 1 << 20)

    def read_range(self, key: str, start: int, length: int, version: str) -> bytes:
        """`length` bytes of this version of the object. Raises `PreconditionFailed` if the object has changed."""
        span = f"{start}-{start + length - 1}"
        return self._get(key, span, Range=f"bytes={span}", IfMatch=f'"{version}"')[0]

    def put(self, key: str, data: bytes | Path, version: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > SINGLE_PUT_BYTES:
            raise StoreError(
                f"{self._where(key)} would have {size} bytes, and a conditional put takes 5 GiB: plan smaller units"
            )
        mark = uuid.uuid4().hex

        async def send() -> Any:
            # Opened again for every try: the HTTP client closes the file that it has sent.
            with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as body:
                answer = await self._request("put_object", Key=key, Body=body, Metadata={_MARK: mark}, **condition)
            require(answer, "ETag")
            return answer

        try:
            return _version(self._retrying("write", key, send))
        except (PreconditionFailed, NotFound) as refused:
            # The existing object may be our own: the answer to the put was lost and the put was sent again, by this
            # module or by aiohttp, which repeats a PUT itself when a kept-alive connection was closed.
            try:
                head = self._head(key)
            except NotFound:
                head = {}
            if head.get("Metadata", {}).get(_MARK) == mark:
                return _version(head)
            if version is None and isinstance(refused, PreconditionFailed):
                raise AlreadyExists(f"{self._where(key)} exists already") from None
            if version is not None and isinstance(refused, NotFound):
                raise PreconditionFailed(f"{self._where(key)} is not there any more") from None
            raise

    def check_writable(self) -> None:
        """Tries to replace an object that does not exist: S3 checks the permission before the condition."""
        with suppress(PreconditionFailed):
            self.put(f"_doctor/{uuid.uuid4().hex}", b"x", "0" * 32)

    def delete(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        while batch := list(islice(left, 1000)):
            objects = [{"Key": self.prefix + key} for key in batch]
            self._retrying("delete", batch[0], functools.partial(self._delete, objects))

    async def _delete(self, objects: Sequence[dict[str, str]]) -> None:
        answer = await self._request("delete_objects", Delete={"Objects": objects})
        if errors := answer.get("Errors"):
            # S3 answers 200 although it refused an object: turned into an error like that of any other request.
            status = _REFUSED.get(errors[0]["Code"], 400)
            failed = {"Error": errors[0], "ResponseMetadata": {"HTTPStatusCode": status}}
            raise botocore.exceptions.ClientError(failed, "DeleteObjects")
        if len(answer.get("Deleted", ())) != len(objects):
            raise NotS3("an answer that does not say what was deleted")

    def sweep(self) -> None:
        """Nothing to do: a single put leaves nothing behind."""

    def _head(self, key: str) -> Any:
        async def look() -> Any:
            answer = await self._request("head_object", Key=key)
            require(answer, "ContentLength", "ETag")
            return answer

        return self._retrying("read", key, look)

    def _get(self, key: str, span: str | None = None, **arguments: str) -> tuple[bytes, Any]:
        async def receive() -> tuple[bytes, Any]:
            answer = await self._request("get_object", Key=key, **arguments)
            require(answer, "ContentLength", "ETag")
            if span and not answer.get("ContentRange", "").startswith(f"bytes {span}/"):
                raise NotS3("an answer with other bytes than were asked for")
            async with answer["Body"] as body:
                data = await body.read()
            if len(data) != answer["ContentLength"]:
                raise ConnectionError("the answer was cut short")
            return data, answer

        return self._retrying("read", key, receive)

    async def _request(self, method: str, **arguments: Any) -> Any:
        if "Key" in arguments:
            arguments["Key"] = self.prefix + arguments["Key"]
        filesystem = _connect(self.settings, os.getpid())
        await filesystem.set_session()  # outside the `try`: its ValueError means a wrong endpoint
        try:
            return await filesystem._call_s3(method, Bucket=self.bucket, **arguments)
        except ValueError as error:
            raise NotS3(f"an answer with a wrong value: {error}") from error

    def _retrying(self, action: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        loop = _connect(self.settings, os.getpid()).loop
        deadline = time.monotonic() + PATIENCE_S
        wait = 0.1
        while True:
            try:
                return sync(loop, request)
            except Exception as error:
                if not may_pass(error) or time.monotonic() + wait > deadline:
                    endpoint = self.settings.endpoint_url or "AWS S3"
                    raise refusal(error, action, self._where(key), endpoint) from None
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(wait * 2, 8)

    def _where(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"


class _Ranges(io.RawIOBase):
    """One version of an object as a file; each read asks for one range."""

    def __init__(self, objects: S3Objects, key: str, size: int, version: str) -> None:
        self._objects, self._key, self._size, self._version = objects, key, size, version
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._objects.read_range(self._key, self._at, length, self._version)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _version(answer: Any) -> str:
    return answer["ETag"].strip('"')
