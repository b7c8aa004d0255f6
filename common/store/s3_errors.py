"""Errors of requests to S3: which are worth another try, which answers do not come from S3, and the error messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import botocore.exceptions
import botocore.parsers

from common.errors import AccessDenied, NotFound, PreconditionFailed, StoreError

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_ADVICE_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that may"
_NO_ANSWER = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
    ConnectionError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
)


class NotS3(Exception):
    """The answer does not come from S3, whatever its status: a proxy's page, a truncated answer, another server."""


def require(answer: Mapping[str, Any], *names: str) -> None:
    """Raises `NotS3` unless the answer has these fields, which S3 always gives."""
    for name in names:
        if answer.get(name) in (None, ""):
            raise NotS3(f"an answer without {name}")


def code_and_status(error: Exception) -> tuple[str, int]:
    """S3's error code and the HTTP status; ("", 0) if S3 gave no answer."""
    cause = error if isinstance(error, botocore.exceptions.ClientError) else error.__cause__
    if not isinstance(cause, botocore.exceptions.ClientError):
        return "", 0
    code = cause.response.get("Error", {}).get("Code", "")
    return code, cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def may_pass(error: Exception) -> bool:
    """Whether another try may succeed: there was no answer of S3, or a temporary error, or two puts met (409)."""
    code, status = code_and_status(error)
    if status:
        return status in (408, 409, 429) or (status >= 500 and status != 501) or code in ("RequestTimeout", "SlowDown")
    return _is_not_s3(error) or isinstance(error, _NO_ANSWER) or type(error).__module__.startswith("aiohttp.")


def _is_not_s3(error: Exception) -> bool:
    return isinstance(error, NotS3 | botocore.parsers.ResponseParserError)


def refusal(error: Exception, action: str, where: str, endpoint: str) -> StoreError:
    """The `StoreError` for an error that is not retried any more; `where` is the object, s3://bucket/key."""
    code, status = code_and_status(error)
    cannot = f"cannot {action} {where}"
    if code == "NoSuchBucket":
        bucket = where.removeprefix("s3://").partition("/")[0]
        return StoreError(f"there is no bucket s3://{bucket}: create it or correct the name")
    if status == 404:
        return NotFound(f"{where} is not there")
    if status == 412:
        return PreconditionFailed(f"{where} is not the version that was read: run again")
    if code in _EXPIRED:
        return StoreError(f"{cannot}: the credentials have expired, renew them and run again")
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        # Not `AccessDenied`: the object is not at fault.
        return StoreError(f"{cannot}: there are no credentials, {_ADVICE_CREDENTIALS} do it")
    if status in (401, 403):
        return AccessDenied(f"{cannot}: access is denied, {_ADVICE_CREDENTIALS} do it")
    if _is_not_s3(error):
        what = str(error) if isinstance(error, NotS3) else "an answer that cannot be read"
        return StoreError(
            f"{cannot}: {endpoint} does not answer as S3 does ({what}), it is another server or a proxy stands before "
            "it; check MIEN_S3_ENDPOINT and the network, run again"
        )
    if may_pass(error):
        what = f"it answers {code or status}" if status else type(error).__name__
        return StoreError(
            f"could not reach {endpoint} to {action} {where} ({what}): check the server and the network, run again"
        )
    if status:
        return StoreError(
            f"{cannot}: the storage answers {code} ({status}), check its name, its permissions and whether the "
            "credentials have expired"
        )
    # Nothing was sent: botocore found no profile of that name, incomplete credentials or a wrong endpoint.
    said = str(error).strip().rstrip(".") or type(error).__name__
    return StoreError(f"{cannot}: {said}; check AWS_PROFILE, the credentials and MIEN_S3_ENDPOINT")
