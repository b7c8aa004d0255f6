"""Listing: what a user names becomes rows; what cannot be had becomes a row that says so, or one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakes import PARTITIONS, put_part, sample_rows

from common.commit.units import LISTING, MISSING, NOT_A_FILE, NOT_UTF8, video_id
from common.errors import UsageError
from common.lake.layout import Lake, Partition
from common.store.store import Store
from ingest import archive


def rows(*sources: object) -> list[dict]:
    batches = list(archive.listing([str(source) for source in sources]))
    assert all(batch.schema == LISTING and batch.num_rows <= archive.BATCH_ROWS for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def names(*sources: object) -> list[str]:
    return [os.path.basename(row["uri"]) for row in rows(*sources)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", "sound.mp4.audio.mp3", "facts.json", "deep/er/c.webm", "odd?[1].mov"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "tree"


EVERY = ["a.MKV", "b.mp4", "c.webm", "facts.json", "notes.txt", "odd?[1].mov", "sound.mp4.audio.mp3"]


def test_folder_gives_every_file_below_it_sorted_whatever_its_extension(tree: Path) -> None:
    assert names(tree) == EVERY


def test_hidden_files_of_a_folder_are_left_out(tree: Path) -> None:
    (tree / ".DS_Store").write_bytes(b"x")
    (tree / ".git").mkdir()
    (tree / ".git" / "clip.mp4").write_bytes(b"x")
    assert names(tree) == EVERY


def put_lake(root: str) -> None:
    """An object of every kind that a lake has."""
    lake = Lake(root)
    for table, keys in PARTITIONS.items():
        data = Partition(table, keys).data
        put_part(lake, table, "u1", sample_rows(table, 1))
        for key in (lake.plan_key(data, 1), lake.config_key(data), lake.staging_prefix(data, "u1") + "1/outcome.json"):
            if lake.store.stat(key) is None:
                lake.store.create(key, b"x")
    for key in (lake.strikes_prefix(data, "u1") + "1", lake.run_key("r20261121T101112-0123abcd")):
        lake.store.create(key, b"x")


def test_what_a_lake_among_the_videos_keeps_is_left_out(tree: Path) -> None:
    put_lake(str(tree))
    put_lake(str(tree / "deep" / "lake"))
    assert names(tree) == EVERY
    assert sorted(names(tree / "**")) == EVERY


def test_folders_of_a_users_own_that_are_named_as_a_lakes_are_not_left_out(tree: Path) -> None:
    for name in ("videos/1.mp4", "scores/2.mp4", "_runs/3.mp4", "_staging/4.mp4"):
        (tree / name).parent.mkdir()
        (tree / name).write_bytes(b"x")
    assert set(names(tree)) - set(EVERY) == {"1.mp4", "2.mp4", "3.mp4", "4.mp4"}


def test_row_names_the_canonical_uri_its_id_size_and_version(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    found = os.stat(tree / "b.mp4")
    expected = {
        "video_id": video_id(str(tree / "b.mp4")),
        "uri": str(tree / "b.mp4"),
        "version": f"{found.st_size}-{found.st_mtime_ns}",
        "size": found.st_size,
    }
    assert rows("./b.mp4") == rows(tree / "deep" / ".." / "b.mp4") == [expected]


def test_named_file_is_taken_whatever_its_extension(tree: Path) -> None:
    assert names(tree / "facts.json") == ["facts.json"]


def test_name_with_glob_characters_is_the_file_itself(tree: Path) -> None:
    assert names(tree / "odd?[1].mov") == ["odd?[1].mov"]


def test_glob(tree: Path) -> None:
    assert sorted(names(tree / "*")) == EVERY  # `*` takes folders with it
    assert names(tree / "*.mp3") == ["sound.mp4.audio.mp3"]
    assert sorted(names(tree / "**" / "*.webm")) == ["c.webm"]


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_list_file_counts_relative_paths_from_its_own_folder_and_keeps_what_is_missing(tree: Path, kind: str) -> None:
    entries = ["b.mp4", str(tree / "facts.json"), "deep/er/c.webm", "gone.mp4", "deep"]
    listed = tree / f"list.{kind}"
    if kind == "txt":
        listed.write_text("# comment\n\n" + "\r\n".join(entries) + "\n")
    elif kind == "csv":
        listed.write_text("note,uri\n" + "\n".join(f"x,{entry}" for entry in entries))
    else:
        pq.write_table(pa.table({"uri": entries}), listed)
    found = rows(listed)
    assert [row["uri"] for row in found] == [str(tree / name) for name in ("b.mp4", "facts.json", *entries[2:])]
    assert [row["version"] for row in found[3:]] == [MISSING, NOT_A_FILE]


def test_odd_entry_of_a_list_is_a_row_like_what_is_missing_and_ends_nothing(tree: Path) -> None:
    odd = ["http://x/y.mp4", "s3:///k.mp4", "s3://no bucket/k.mp4", "ftp:", "a\0b.mp4"]
    (tree / "list.txt").write_text("\n".join(["b.mp4", *odd, "facts.json"]))
    found = rows(tree / "list.txt")
    assert [row["version"] for row in found[1:-1]] == [MISSING] * len(odd)
    assert found[1]["uri"] == f"{tree}/http:/x/y.mp4"
    assert [row["size"] > 0 for row in (found[0], found[-1])] == [True, True]


def test_list_without_a_column_uri_says_so(tree: Path) -> None:
    (tree / "list.csv").write_text("path\nb.mp4\n")
    pq.write_table(pa.table({"path": ["b.mp4"]}), tree / "list.parquet")
    (tree / "broken.parquet").write_bytes(b"PAR1 and no more")
    for name in ("list.csv", "list.parquet", "broken.parquet"):
        with pytest.raises(UsageError, match=name):
            rows(tree / name)


def test_duplicates_are_listed_once(tree: Path) -> None:
    assert names(tree / "b.mp4", tree / "b.mp4", tree)[:2] == ["b.mp4", "a.MKV"]


def test_wrong_sources_are_one_sentence_before_anything_is_listed(tree: Path) -> None:
    (tree / "empty").mkdir()
    for wrong in (tree / "nope.mp4", tree / "empty", tree / "*.nope", "https://host/x.mp4"):
        with pytest.raises(UsageError) as error:
            archive.listing([str(tree), str(wrong)])
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError):
        archive.listing([])


def test_name_that_is_not_utf8_becomes_a_row_that_says_so(tree: Path) -> None:
    with open(os.fsencode(tree) + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    row = next(row for row in rows(tree) if row["version"] == NOT_UTF8)
    assert row["uri"] == f"{tree}/caf\\xe9.mp4"
    (tree / "list.txt").write_bytes(b"b.mp4\ncaf\xe9.mp4\n")
    assert [row["version"] for row in rows(tree / "list.txt")][1] == NOT_UTF8


def test_link_in_a_circle_and_link_to_nothing(tree: Path) -> None:
    (tree / "loop").symlink_to(tree)
    (tree / "broken.mp4").symlink_to(tree / "gone.mp4")
    (tree / "itself.mp4").symlink_to(tree / "itself.mp4")
    found = {os.path.basename(row["uri"]): row["version"] for row in rows(tree)}
    assert sorted(found) == sorted([*EVERY, "broken.mp4", "itself.mp4"])
    assert found["broken.mp4"] == found["itself.mp4"] == MISSING


@pytest.mark.slow
def test_long_list_streams_in_batches(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"video-{number}.mp4" for number in range(25_000)))
    batches = archive.listing([str(tmp_path / "list.txt")])
    assert [batch.num_rows for batch in batches] == [10_000, 10_000, 5_000]


def test_s3_object_prefix_glob_and_list(s3_url: str) -> None:
    store = Store(s3_url)
    keys = ("a/1.mp4", "a/b/2.mkv", "a/notes.json", "ab/3.mp4", "a/we?rd.mov")
    versions = {key: store.create(key, key.encode()) for key in keys}

    def found(source: str) -> list[str]:
        return [row["uri"].removeprefix(f"{s3_url}/") for row in rows(source)]

    store.create("a/.hidden/4.mp4", b"x")
    put_lake(s3_url)
    put_lake(f"{s3_url}/a/lake")
    assert sorted(found(s3_url)) == sorted(keys)
    assert found(f"{s3_url}/a") == found(f"{s3_url}/a/") == ["a/1.mp4", "a/b/2.mkv", "a/notes.json", "a/we?rd.mov"]
    assert found(f"{s3_url}/a/notes.json") == ["a/notes.json"]
    assert found(f"{s3_url}/a/we?rd.mov") == ["a/we?rd.mov"]
    assert found(f"{s3_url}/*/[0-9].mp4") == ["a/1.mp4", "ab/3.mp4"]
    assert found(f"{s3_url}/**/*.mkv") == ["a/b/2.mkv"]
    assert rows(f"{s3_url}/a/1.mp4")[0]["version"] == versions["a/1.mp4"]
    with pytest.raises(UsageError):
        rows(f"{s3_url}/nothing/here")


def test_s3_list_counts_relative_keys_from_its_own_prefix(s3_url: str) -> None:
    store = Store(s3_url)
    store.create("lists/1.mp4", b"one")
    store.create("lists/videos.txt", f"1.mp4\n{s3_url}/a/../gone.mp4\n{s3_url}\n".encode())
    found = rows(f"{s3_url}/lists/videos.txt")
    assert [row["uri"] for row in found] == [f"{s3_url}/lists/1.mp4", f"{s3_url}/a/../gone.mp4", s3_url]
    assert [row["size"] for row in found] == [3, 0, 0]
    assert [row["version"] for row in found[1:]] == [MISSING, MISSING]
