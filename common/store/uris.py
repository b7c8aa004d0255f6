"""Canonical URIs: every video, folder or object has exactly one name."""

from __future__ import annotations

import os

from common.errors import UsageError


def canonical_uri(uri: str) -> str:
    """The canonical URI of a video or folder: an absolute path (symbolic links kept), or `s3://bucket/key` unchanged.

    Raises `UsageError` for any other scheme.
    """
    if uri.startswith("s3://"):
        if not uri[5:].partition("/")[0]:
            raise UsageError(f"{uri} names no bucket: write s3://bucket/key")
        return uri
    if "://" in uri:
        raise UsageError(f"{uri}: only local paths and s3:// are read, copy the files to one of them")
    path = os.path.abspath(os.path.expanduser(uri))
    return path[1:] if path.startswith("//") else path  # `abspath` keeps two leading slashes; on Linux they mean one


def split_uri(uri: str) -> tuple[str, str]:
    """(root, key): the object is `key` in `Store(root)`. Like ("/", "folder/file") or ("s3://bucket", "key")."""
    canonical = canonical_uri(uri)
    if canonical.startswith("s3://"):
        bucket, _, key = canonical[5:].partition("/")
        return f"s3://{bucket}", key
    return "/", canonical[1:]
