"""The contract of the Store, held by local files and by S3 alike, and what each does when the machinery fails."""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_proxy import FaultProxy, Instead

from common.errors import AccessDenied, AlreadyExists, NotFound, PreconditionFailed, StoreError, UsageError
from common.store import s3
from common.store.base import StoreSettings
from common.store.store import Store
from common.store.uris import canonical_uri, split_uri

HOSTILE = [
    "a b.txt",
    "what?versionId=x&y=%2F#z",
    "größe/映像 🎬.mp4",
    "quote'\"<>.json",
    "back\\slash",
    "new\nline",
    "-rf",
    "a=b/c",
]


@pytest.fixture(params=["local", "s3", "s3-prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "root"))
    url = request.getfixturevalue("s3_url")
    return Store(url if request.param == "s3" else f"{url}/some/prefix")


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in store.list(prefix))


def test_what_is_created_is_read_listed_and_described(store: Store, tmp_path: Path) -> None:
    version = store.create("a/b.txt", b"hello")
    assert store.read("a/b.txt") == b"hello"
    assert store.read_versioned("a/b.txt") == (b"hello", version)
    entry = store.stat("a/b.txt")
    assert entry is not None
    assert list(store.list()) == [entry]
    assert (entry.key, entry.size, entry.version) == ("a/b.txt", 5, version)
    store.download("a/b.txt", tmp_path / "copy", version)
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_a_second_create_is_refused_and_changes_nothing(store: Store) -> None:
    store.create("a", b"first")
    with pytest.raises(AlreadyExists):
        store.create("a", b"second")
    assert store.read("a") == b"first"


def test_one_of_many_racing_creators_wins_each_key(store: Store) -> None:
    for n in range(8):
        gate = threading.Barrier(12)

        def create(writer: int, key: str = f"key-{n}", gate: threading.Barrier = gate) -> int | None:
            gate.wait()
            try:
                store.create(key, f"{writer}".encode())
            except AlreadyExists:
                return None
            return writer

        with ThreadPoolExecutor(12) as pool:
            winners = [writer for writer in pool.map(create, range(12)) if writer is not None]
        assert winners == [int(store.read(f"key-{n}"))]


def test_check_exclusive_passes_and_leaves_nothing(store: Store) -> None:
    store.check_exclusive(8)
    assert keys(store) == []


def test_check_exclusive_names_a_storage_that_lets_two_win(tmp_path: Path) -> None:
    class Careless(Store):
        def create(self, key: str, data: bytes | Path) -> str:
            return "1"

    with pytest.raises(StoreError, match="4 of 4 writers"):
        Careless(str(tmp_path)).check_exclusive(4)


def test_replace_needs_the_version_that_is_there(store: Store) -> None:
    first = store.create("a", b"one")
    second = store.replace("a", b"two", first)
    assert second != first
    with pytest.raises(PreconditionFailed):
        store.replace("a", b"six", first)
    with pytest.raises(PreconditionFailed):
        store.replace("absent", b"x", first)
    assert store.read_versioned("a") == (b"two", second)
    assert keys(store) == ["a"]


def test_of_many_racing_replacers_each_success_is_seen_by_the_next(store: Store) -> None:
    store.create("count", b"0" * 8)

    def add(_: int) -> None:
        while True:
            content, version = store.read_versioned("count")
            try:
                store.replace("count", b"%08d" % (int(content) + 1), version)
                return
            except PreconditionFailed:
                continue

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(24)))
    assert int(store.read("count")) == 24


def test_files_are_put_as_bytes_are(store: Store, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "source").write_bytes(content)
    version = store.create("big", tmp_path / "source")
    assert store.stat("big").size == len(content)  # type: ignore[union-attr]
    store.download("big", tmp_path / "copy", version)
    assert (tmp_path / "copy").read_bytes() == content
    with store.open_input("big") as file:
        assert file.seek(-7, io.SEEK_END) == len(content) - 7
        assert file.read() == content[-7:]
        file.seek(3_000_000)
        assert file.read(9_000_000) == content[3_000_000:12_000_000]


def test_nothing_that_is_absent_is_found(store: Store, tmp_path: Path) -> None:
    assert store.stat("a/b") is None
    for read in (store.read, store.open_input, lambda key: store.download(key, tmp_path / "copy")):
        with pytest.raises(NotFound):
            read("a/b")
    assert not (tmp_path / "copy").exists()
    assert keys(store, "a/") == []
    store.delete(["a/b", "c"])


def test_a_download_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    first = store.create("a", b"one")
    store.replace("a", b"longer", first)
    with pytest.raises(PreconditionFailed):
        store.download("a", tmp_path / "copy", first)
    assert not (tmp_path / "copy").exists()


def test_an_object_that_changes_while_it_is_downloaded_is_not_delivered(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.create("a", b"1" * (20 << 20))
    real = (shutil.copyfileobj, s3.S3Objects.read_range)

    def change() -> None:
        monkeypatch.undo()
        store.replace("a", b"2" * (20 << 20), version)

    def copyfileobj(*arguments: object) -> None:
        real[0](*arguments)  # type: ignore[arg-type]
        change()

    def read_range(*arguments: object) -> bytes:
        data = real[1](*arguments)  # type: ignore[arg-type]
        change()
        return data

    monkeypatch.setattr(shutil, "copyfileobj", copyfileobj)
    monkeypatch.setattr(s3.S3Objects, "read_range", read_range)
    with pytest.raises(PreconditionFailed):
        store.download("a", tmp_path / "copy", version)
    assert not (tmp_path / "copy").exists()


def test_listing_is_by_prefix_over_many_pages(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.create(f"many/{n:04d}", b"x"), range(1100)))
    store.create("many-others/1", b"x")
    assert keys(store, "many/") == [f"many/{n:04d}" for n in range(1100)]
    assert keys(store, "many") == [f"many-others/{1}", *(f"many/{n:04d}" for n in range(1100))]
    assert keys(store, "many/10") == [f"many/{n:04d}" for n in range(1000, 1100)]
    if not store.is_local:
        assert [entry.key for entry in store.list()] == keys(store)
    store.delete(entry.key for entry in store.list())
    assert keys(store) == []


@pytest.mark.parametrize("key", HOSTILE)
def test_any_name_that_an_archive_may_hold_is_a_key(store: Store, key: str, tmp_path: Path) -> None:
    version = store.create(key, b"x")
    assert keys(store) == [key]
    store.replace(key, b"y", version)
    store.download(key, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"y"
    store.delete([key])
    assert keys(store) == []


@pytest.mark.parametrize("key", ["/x.mp4", "a//b.mp4", "./a", "a/../b", ".."])
def test_on_s3_a_key_is_a_name_and_no_path(s3_url: str, key: str, tmp_path: Path) -> None:
    root, name = split_uri(f"{s3_url}/{key}")
    store = Store(root)
    version = store.create(name, b"x")
    assert keys(store) == [key]
    store.download(name, tmp_path / "copy", version)
    store.replace(name, b"y", version)
    assert store.read(name) == b"y"
    store.delete([name])
    assert keys(store) == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./a", "nul\0"])
def test_a_key_that_could_leave_the_root_is_refused(tmp_path: Path, key: str) -> None:
    store = Store(str(tmp_path / "root"))
    for use in (store.read, store.stat, store.open_input, lambda key: store.create(key, b"x")):
        with pytest.raises(StoreError, match="not a key"):
            use(key)


def test_an_empty_object_is_never_written(store: Store) -> None:
    with pytest.raises(ValueError, match="empty"):
        store.create("a", b"")


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.create("a", b"x")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"x"  # noqa: S301


def test_uris_have_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_uri("./x/../y.mp4") == canonical_uri("y.mp4") == str(tmp_path / "y.mp4")
    assert canonical_uri("//tmp/x.mp4") == canonical_uri("/tmp//x.mp4") == "/tmp/x.mp4"
    assert canonical_uri("s3://bucket/a//b?c") == "s3://bucket/a//b?c"
    assert split_uri("y.mp4") == ("/", str(tmp_path / "y.mp4")[1:])
    assert split_uri("s3://bucket/a/b c") == ("s3://bucket", "a/b c")
    for wrong in ("http://host/x", "gs://bucket/x", "file:///x", "s3://", "s3:///x"):
        with pytest.raises(UsageError):
            canonical_uri(wrong)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_S3_ENDPOINT", "http://one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://two")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert StoreSettings.from_env() == StoreSettings("http://one", "eu-north-1")
    monkeypatch.delenv("MIEN_S3_ENDPOINT")
    assert StoreSettings.from_env().endpoint_url == "http://two"


# Local files


def in_child(function: Callable[[], None]) -> str:
    """Runs `function` in a forked process and returns what it raised, as `type: message`."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            function()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.wait()
    return said


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    version = store.create("old", b"x")

    def put() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            store.create("new", b"1" * (2 << 20))
        except StoreError:
            store.replace("old", b"1" * (2 << 20), version)

    said = in_child(put)
    assert said.startswith("StoreError: cannot write")
    assert "full, make room" in said
    assert [path.name for path in (tmp_path / "root").rglob("*") if not path.name.endswith("lock")] == ["old"]
    assert store.read("old") == b"x"


def test_a_download_that_fills_the_disk_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.create("big", b"1" * (2 << 20))

    def get() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        store.download("big", tmp_path / "copy")

    said = in_child(get)
    assert said.startswith("StoreError: cannot write")
    assert "make room" in said
    assert not (tmp_path / "copy").exists()


def test_a_download_to_a_folder_that_is_gone_does_not_ask_for_room(store: Store, tmp_path: Path) -> None:
    store.create("a", b"x")
    with pytest.raises(StoreError, match=r"cannot write .*: a folder in its path is gone"):
        store.download("a", tmp_path / "gone" / "copy")


def test_a_read_only_folder_is_one_sentence_and_leaves_nothing() -> None:
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    try:
        folder.chmod(0o555)

        def put() -> None:
            if os.getuid() == 0:
                os.setuid(65534)  # nobody: permissions do not hold root back
            Store(str(folder)).create("a/b", b"x")

        def ask() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            Store(str(folder / "a" / "b")).check_writable()

        for call in (put, ask):
            said = in_child(call)
            assert said.startswith("AccessDenied: cannot write")
            assert "permissions" in said
        assert list(folder.iterdir()) == []
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot write"):
        Store(str(tmp_path / "file")).create("a", b"x")
    assert list(Store(str(tmp_path / "file")).list()) == []


def test_temporary_files_of_killed_writers_are_unseen_and_swept_after_a_day(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("a/b", b"x")
    left = [tmp_path / "a" / f".mien-{n}.tmp" for n in (1, 2)]
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    assert keys(store) == ["a/b"]
    store.sweep()
    assert [path.exists() for path in left] == [False, True]


def test_sweep_ignores_files_that_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (str(tmp_path), [], [".mien-1.tmp"])
    monkeypatch.setattr(os, "walk", lambda root: iter([gone]))
    Store(str(tmp_path)).sweep()


# S3 that fails


def test_a_create_whose_answer_was_lost_is_recognised_as_our_own(proxy: FaultProxy, shaky: Store) -> None:
    proxy.faults = ["drop"]
    version = shaky.create("a", b"x")
    assert shaky.read_versioned("a") == (b"x", version)
    with pytest.raises(AlreadyExists):
        shaky.create("a", b"x")


def test_a_replace_whose_answer_was_lost_is_recognised_as_our_own(proxy: FaultProxy, shaky: Store) -> None:
    version = shaky.create("a", b"x")
    proxy.faults = ["drop"]
    assert shaky.read_versioned("a")[1] != shaky.replace("a", b"y", version)
    assert shaky.read("a") == b"y"


def test_a_create_that_lost_to_another_after_a_lost_answer_is_refused(
    proxy: FaultProxy, shaky: Store, s3_url: str
) -> None:
    Store(s3_url).create("a", b"theirs")
    proxy.faults = ["drop", 503]
    with pytest.raises(AlreadyExists):
        shaky.create("a", b"ours")
    assert shaky.read("a") == b"theirs"


@pytest.mark.parametrize("fault", [409, 500, 503, 429, "drop"])
def test_passing_trouble_is_tried_again(proxy: FaultProxy, shaky: Store, tmp_path: Path, fault: str | int) -> None:
    proxy.faults = [fault, fault]
    version = shaky.create("a", b"x")
    proxy.faults = [fault, "pass", fault]
    shaky.download("a", tmp_path / "copy", version)
    proxy.faults = [fault]
    assert keys(shaky) == ["a"]
    proxy.faults = [fault]
    shaky.delete(["a"])
    assert keys(shaky) == []


def test_a_body_that_is_cut_short_is_read_again(proxy: FaultProxy, shaky: Store, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    shaky.create("a", content)
    proxy.faults = ["cut", "cut"]
    assert shaky.read("a") == content
    proxy.faults = ["pass", "cut"]
    shaky.download("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_refusals_are_not_tried_again_and_say_what_to_do(proxy: FaultProxy, shaky: Store) -> None:
    for status, kind, said in ((403, AccessDenied, "AWS_ACCESS_KEY_ID"), (400, StoreError, "400")):
        proxy.faults, proxy.seen = [status], []
        with pytest.raises(kind, match=said):
            shaky.create("a", b"x")
        assert proxy.seen == ["PUT"]


def refusal(code: str) -> Instead:
    """The answer to a DeleteObjects that was carried out for all but one object."""
    error = f"<Error><Key>a</Key><Code>{code}</Code><Message>x</Message></Error>"
    return Instead(f"<DeleteResult>{error}</DeleteResult>".encode())


def test_objects_that_a_deletion_left_out_are_deleted_again(proxy: FaultProxy, shaky: Store) -> None:
    shaky.create("a", b"x")
    proxy.faults = [refusal("InternalError"), refusal("SlowDown")]
    shaky.delete(["a"])
    assert keys(shaky) == []
    proxy.faults = [refusal("AccessDenied")]
    with pytest.raises(AccessDenied, match=r"cannot delete s3://.*/a: access is denied"):
        shaky.delete(["a"])


def test_a_store_that_may_only_be_read_is_known_before_anything_is_put(proxy: FaultProxy, shaky: Store) -> None:
    shaky.check_writable()
    proxy.always = 403
    with pytest.raises(AccessDenied, match=r"cannot write s3://.*: access is denied"):
        shaky.check_writable()
    proxy.always = "pass"
    assert keys(shaky) == []


def test_credentials_that_are_at_fault_are_no_fault_of_the_object(
    proxy: FaultProxy, shaky: Store, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.faults = [Instead(b"<Error><Code>ExpiredToken</Code><Message>x</Message></Error>", 400)]
    with pytest.raises(StoreError, match="have expired, renew them and run again"):
        shaky.read("a")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(StoreError, match=r"no-such-profile\) could not be found; check AWS_PROFILE") as error:
        Store(s3_url, StoreSettings(proxy.endpoint, "eu-north-1")).read("a")
    assert not isinstance(error.value, AccessDenied)


def test_an_endpoint_that_is_no_url_is_named(s3_url: str) -> None:
    with pytest.raises(StoreError, match=r"Invalid endpoint: localhost:9; check .* MIEN_S3_ENDPOINT"):
        Store(s3_url, StoreSettings("localhost:9")).read("a")


def test_a_server_that_is_gone_is_one_sentence_after_bounded_tries(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, shaky: Store
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 4.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    proxy.faults = [503] * 100
    with pytest.raises(StoreError, match=r"could not reach http.*503") as busy:
        shaky.create("a", b"x")
    assert 2 <= len(proxy.seen) <= 10
    proxy.shutdown()
    proxy.server_close()
    with pytest.raises(StoreError, match=f"could not reach {proxy.endpoint}") as gone:
        shaky.create("a", b"x")
    for error in (busy, gone):
        assert "canary" not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_bucket_that_is_not_there_is_named(s3_server: str) -> None:
    with pytest.raises(StoreError, match="no bucket s3://no-such-bucket-here"):
        Store("s3://no-such-bucket-here").create("a", b"x")
