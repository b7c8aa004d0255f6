"""S3 behind the `Store`, by single API calls through s3fs: no listing cache, no multipart, retries that we can see.

s3fs retries by itself and maps errors away, and a retried put that had succeeded answers 412 to its own write. So each
call here is one request; this module retries, and marks its puts to recognise them (AWS: "Conditional writes").
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import botocore.exceptions
import botocore.parsers
import s3fs
from fsspec.asyn import sync

from common.disk import speaking
from common.errors import AccessDenied, AlreadyExists, NotFound, PreconditionFailed, StoreError
from common.store.base import Entry, StoreSettings

PATIENCE_S = 45.0  # a call is not tried again once this much time has passed
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 20}
SINGLE_PUT_BYTES = 5 << 30
_CHUNK = 8 << 20
_MARK = "mien-put"
_REFUSED = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503, "AccessDenied": 403}
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_ADVICE_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that may"
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
            page = self._call("list", prefix, "list_objects_v2", Prefix=self.prefix + prefix, **token)
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # what consoles put to show an empty folder
                    yield Entry(found["Key"][len(self.prefix) :], found["Size"], _version(found))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

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
            for start in range(0, head["ContentLength"], _CHUNK):
                file.write(self.read_range(key, start, _CHUNK, _version(head)))

    def open_input(self, key: str) -> BinaryIO:
        head = self._head(key)
        return io.BufferedReader(_Ranges(self, key, head["ContentLength"], _version(head)), 1 << 20)

    def read_range(self, key: str, start: int, length: int, version: str) -> bytes:
        """At most `length` bytes of that version of the object. Raises `PreconditionFailed` if it is another now."""
        return self._get(key, Range=f"bytes={start}-{start + length - 1}", IfMatch=f'"{version}"')[0]

    def put(self, key: str, data: bytes | Path, version: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > SINGLE_PUT_BYTES:
            raise StoreError(
                f"{self._where(key)} would have {size} bytes, and a conditional put takes 5 GiB: plan smaller units"
            )
        mark = uuid.uuid4().hex

        async def send() -> Any:
            # Opened anew for every try: the HTTP client closes the file that it has sent.
            with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as body:
                return await self._request("put_object", Key=key, Body=body, Metadata={_MARK: mark}, **condition)

        try:
            return _version(self._retrying("write", key, send))
        except (PreconditionFailed, NotFound) as refusal:
            # The refusal may be of what we ourselves have written: an answer was lost and the put sent again, by us or,
            # unseen by us, by aiohttp (it repeats a PUT whose kept-alive connection was closed).
            try:
                head = self._head(key)
            except NotFound:
                head = {}
            if head.get("Metadata", {}).get(_MARK) == mark:
                return _version(head)
            if version is None and isinstance(refusal, PreconditionFailed):
                raise AlreadyExists(f"{self._where(key)} exists already") from None
            if version is not None and isinstance(refusal, NotFound):
                raise PreconditionFailed(f"{self._where(key)} is not there any more") from None
            raise

    def delete(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        while batch := list(islice(left, 1000)):
            objects = [{"Key": self.prefix + key} for key in batch]
            self._retrying("delete", batch[0], functools.partial(self._delete, objects))

    async def _delete(self, objects: Sequence[dict[str, str]]) -> None:
        answer = await self._request("delete_objects", Delete={"Objects": objects, "Quiet": True})
        if errors := answer.get("Errors"):
            # The request succeeds although an object was refused; made an error like any other, it is tried again.
            status = _REFUSED.get(errors[0]["Code"], 400)
            failed = {"Error": errors[0], "ResponseMetadata": {"HTTPStatusCode": status}}
            raise botocore.exceptions.ClientError(failed, "DeleteObjects")

    def sweep(self) -> None:
        """Nothing to do: a single put leaves nothing behind."""

    def _head(self, key: str) -> Any:
        return self._call("read", key, "head_object", Key=key)

    def _get(self, key: str, **arguments: str) -> tuple[bytes, Any]:
        async def receive() -> tuple[bytes, Any]:
            answer = await self._request("get_object", Key=key, **arguments)
            async with answer["Body"] as body:
                data = await body.read()
            if len(data) != answer["ContentLength"]:
                raise ConnectionError("the answer was cut short")
            return data, answer

        return self._retrying("read", key, receive)

    def _call(self, action: str, key: str, method: str, **arguments: Any) -> Any:
        return self._retrying(action, key, lambda: self._request(method, **arguments))

    async def _request(self, method: str, **arguments: Any) -> Any:
        if "Key" in arguments:
            arguments["Key"] = self.prefix + arguments["Key"]
        return await _connect(self.settings, os.getpid())._call_s3(method, Bucket=self.bucket, **arguments)

    def _retrying(self, action: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        loop = _connect(self.settings, os.getpid()).loop
        deadline = time.monotonic() + PATIENCE_S
        wait = 0.1
        while True:
            try:
                return sync(loop, request)
            except Exception as error:
                if not _passing(error) or time.monotonic() + wait > deadline:
                    self._refuse(action, key, error)
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(wait * 2, 8)

    def _refuse(self, action: str, key: str, error: Exception) -> NoReturn:
        where = self._where(key)
        code, status = _answer(error)
        if code == "NoSuchBucket":
            raise StoreError(f"there is no bucket s3://{self.bucket}: create it or correct the name") from None
        if status == 404:
            raise NotFound(f"{where} is not there") from None
        if status == 412:
            raise PreconditionFailed(f"{where} is not the version that was read: run again") from None
        if code in _EXPIRED:
            raise StoreError(
                f"cannot {action} {where}: the credentials have expired, renew them and run again"
            ) from None
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            # Not `AccessDenied`: it is not this object's.
            raise StoreError(
                f"cannot {action} {where}: there are no credentials, {_ADVICE_CREDENTIALS} do it"
            ) from None
        if status in (401, 403):
            raise AccessDenied(f"cannot {action} {where}: access is denied, {_ADVICE_CREDENTIALS} do it") from None
        if _passing(error):
            endpoint = self.settings.endpoint_url or "AWS S3"
            what = f"it answers {code or status}" if status else type(error).__name__
            raise StoreError(
                f"could not reach {endpoint} to {action} {where} ({what}): check the server and the network, run again"
            ) from None
        if status:
            raise StoreError(
                f"cannot {action} {where}: the storage answers {code} ({status}), check its name, its permissions and "
                "whether the credentials have expired"
            ) from None
        # Nothing was sent: botocore found no profile of that name, half of the credentials, a wrong endpoint.
        said = str(error).strip().rstrip(".") or type(error).__name__
        raise StoreError(
            f"cannot {action} {where}: {said}; check AWS_PROFILE, the credentials and MIEN_S3_ENDPOINT"
        ) from None

    def _where(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"


class _Ranges(io.RawIOBase):
    """One version of an object, read by ranges."""

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


def _answer(error: Exception) -> tuple[str, int]:
    """S3's error code and the HTTP status, ("", 0) if there was no answer."""
    cause = error if isinstance(error, botocore.exceptions.ClientError) else error.__cause__
    if not isinstance(cause, botocore.exceptions.ClientError):
        return "", 0
    code = cause.response.get("Error", {}).get("Code", "")
    return code, cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _passing(error: Exception) -> bool:
    """Whether the next try may succeed: no answer, a server's trouble, or a race of conditional puts (409)."""
    code, status = _answer(error)
    if status:
        return status in (408, 409, 429) or (status >= 500 and status != 501) or code in ("RequestTimeout", "SlowDown")
    lost = (
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.ConnectionError,
        botocore.exceptions.ResponseStreamingError,
        botocore.exceptions.IncompleteReadError,
        botocore.parsers.ResponseParserError,
        ConnectionError,
        asyncio.TimeoutError,
        asyncio.IncompleteReadError,
    )
    return isinstance(error, lost) or type(error).__module__.startswith("aiohttp.")
