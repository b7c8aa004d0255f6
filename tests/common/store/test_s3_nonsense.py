"""Answers that are not S3's (a proxy's page, garbage) are asked for again, and named when nothing else comes.

They come from a real HTTP server on loopback that stands before a real S3 server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_proxy import FaultProxy, Instead

from common.errors import AlreadyExists, PreconditionFailed, StoreError
from common.store import s3
from common.store.base import StoreSettings
from common.store.store import Store

CONTENT = bytes(range(256)) * 40
PAGE = b"<html><head><title>Please log in</title></head><body><p>Welcome<br></body></html>"
HTML = (("Content-Type", "text/html"),)
ETAG = (("ETag", '"0123"'),)
LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>%s</Contents></ListBucketResult>"
NONSENSE = {
    "a page": Instead(PAGE, headers=HTML),
    "a page that is XML": Instead(PAGE.replace(b"<br>", b"<br/>"), headers=HTML),
    "nothing": Instead(b""),
    "JSON": Instead(b'{"error": "no such route"}'),
    "another protocol": Instead(b"SSH-2.0-OpenSSH_9.6\r\n", raw=True),
    "a page of trouble": Instead(PAGE, status=502, headers=HTML),
    "a date that is none": Instead(
        LISTING % b"<Key>a</Key><LastModified>?</LastModified>", headers=(("Last-Modified", "?"),)
    ),
}


def download(store: Store, folder: Path) -> bytes:
    store.download("a", folder / "copy")
    return (folder / "copy").read_bytes()


def listed(store: Store, folder: Path) -> list[tuple[str, int]]:
    return [(entry.key, entry.size) for entry in store.list()]


def stat(store: Store, folder: Path) -> int:
    found = store.stat("a")
    assert found is not None
    return found.size


def delete(store: Store, folder: Path) -> list[str]:
    store.delete(["a"])
    return [entry.key for entry in store.list()]


READS: dict[str, tuple[Callable[[Store, Path], Any], Any]] = {
    "list": (listed, [("a", len(CONTENT))]),
    "stat": (stat, len(CONTENT)),
    "read": (lambda store, folder: store.read("a"), CONTENT),
    "download": (download, CONTENT),
    "open_input": (lambda store, folder: store.open_input("a").read(), CONTENT),
    "delete": (delete, []),
}


@pytest.fixture
def before(s3_url: str, proxy: FaultProxy) -> Store:
    """The store behind the proxy, with an object in it."""
    Store(s3_url).create("a", CONTENT)
    return Store(s3_url, StoreSettings(proxy.endpoint, "us-east-1"))


@pytest.mark.parametrize("operation", READS)
def test_a_request_is_repeated_until_the_answer_is_from_s3(
    operation: str, before: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    use, expected = READS[operation]
    for name, nonsense in NONSENSE.items():
        # The second is met by the second request of operations that make two.
        proxy.faults = [nonsense, "pass", nonsense]
        assert use(before, tmp_path) == expected, name
        proxy.faults.clear()
        if operation == "delete":
            before.create("a", CONTENT)


@pytest.mark.parametrize("applied", [False, True])
def test_a_put_is_recognised_as_our_own_whether_or_not_the_server_had_applied_it(
    applied: bool, shaky: Store, proxy: FaultProxy
) -> None:
    for name, nonsense in NONSENSE.items():
        fault = dataclasses.replace(nonsense, applied=applied)
        proxy.faults = [fault]
        version = shaky.create(name, CONTENT)
        assert shaky.read_versioned(name) == (CONTENT, version)
        with pytest.raises(AlreadyExists):
            shaky.create(name, b"another")
        proxy.faults = [fault]
        newer = shaky.replace(name, b"newer", version)
        assert shaky.read_versioned(name) == (b"newer", newer)
        with pytest.raises(PreconditionFailed):
            shaky.replace(name, b"newest", version)


def test_a_put_that_another_writer_overtook_is_not_taken_for_our_own(
    shaky: Store, proxy: FaultProxy, s3_url: str
) -> None:
    Store(s3_url).create("a", b"theirs")
    proxy.faults = [NONSENSE["a page"]]
    with pytest.raises(AlreadyExists):
        shaky.create("a", b"ours")
    assert shaky.read("a") == b"theirs"


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nothing_but_nonsense_is_one_sentence_that_names_the_server(
    nonsense: str, before: Store, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 0)
    proxy.always = NONSENSE[nonsense]
    uses = [use for use, _ in READS.values()]
    uses += [lambda store, folder: store.create("b", b"x"), lambda store, folder: store.replace("a", b"x", "0")]
    for use in uses:
        with pytest.raises(StoreError) as error:
            use(before, tmp_path)
        said = str(error.value)
        assert proxy.endpoint in said
        assert "check " in said
        assert "\n" not in said
        assert "KeyError" not in said
        # botocore itself makes an error 500 of some pages.
        assert f"{proxy.endpoint} does not answer as S3 does" in said or f"could not reach {proxy.endpoint}" in said


def test_a_range_of_other_bytes_is_not_taken(before: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    # A cache that knows nothing of ranges gives the whole object, or the range that it was asked for before.
    whole = Instead(CONTENT, headers=ETAG)
    earlier = Instead(CONTENT, status=206, headers=(*ETAG, ("Content-Range", "bytes 7-10246/20000")))
    proxy.faults = ["pass", whole, earlier]
    assert download(before, tmp_path) == CONTENT
    assert len(proxy.seen) == 4


@pytest.mark.parametrize(
    "fields",
    [b"<Size>1</Size><ETag>&quot;e&quot;</ETag>", b"<Key>a</Key><Size>1</Size>", b"<Key>a</Key><ETag>e</ETag>"],
)
def test_a_listing_that_leaves_out_what_an_object_is_called_or_is_like_is_asked_for_again(
    fields: bytes, before: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.faults = [Instead(LISTING % fields)]
    assert listed(before, tmp_path) == [("a", len(CONTENT))]


def test_a_page_of_a_listing_that_names_no_next_one_is_asked_for_again(
    before: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.faults = [Instead(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")]
    assert listed(before, tmp_path) == [("a", len(CONTENT))]


def test_a_proxy_before_the_server_is_told_from_a_server_in_trouble(
    before: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 0)
    proxy.always = NONSENSE["a page"]
    with pytest.raises(StoreError, match=r"does not answer as S3 does \(an answer without ETag\)"):
        before.read("a")
    proxy.always = 503
    with pytest.raises(StoreError, match=r"could not reach .* \(it answers Injected503\)"):
        before.read("a")
