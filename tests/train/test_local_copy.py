"""Copies of sets of faces on the local disk."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.errors import MienError, StoreError
from train.data.local_copy import LocalCopy, Writer, made_once

PICTURES = [bytes([n]) * (n + 1) for n in range(10)]


def write(folder: Path) -> None:
    writer = Writer(folder, "plain")
    for first in (0, 4):
        some = PICTURES[first : first + 4] if first == 0 else PICTURES[4:]
        writer.add(pa.RecordBatch.from_pydict({"frame": list(range(first, first + len(some)))}), some)
    writer.finish(pa.table({"uri": ["a", "b"]}))


def read(copy: LocalCopy) -> list[bytes]:
    return [copy.pictures[n] for n in range(len(copy.keys))]


def test_pictures_come_back_in_any_order_with_their_keys(tmp_path: Path) -> None:
    found = made_once(tmp_path / "copies" / "a", write)
    for number in np.random.default_rng(0).integers(0, 10, 50).tolist():
        assert found.pictures[number] == PICTURES[number]
    assert found.keys["frame"].tolist() == list(range(10))
    assert found.videos["uri"].tolist() == ["a", "b"]
    assert found.kind == "plain"


def test_those_that_want_the_same_copy_at_the_same_time_have_it_written_once(tmp_path: Path) -> None:
    written: list[Path] = []
    found: list[LocalCopy] = []
    together = threading.Barrier(4)

    def slowly(folder: Path) -> None:
        written.append(folder)
        write(folder)

    def want() -> None:
        together.wait(10)
        found.append(made_once(tmp_path / "a", slowly))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(written) == 1
    assert [read(copy) for copy in found] == [PICTURES] * 4


def test_a_copy_that_could_not_be_finished_is_not_there_and_is_begun_again(tmp_path: Path) -> None:
    def cut_off(folder: Path) -> None:
        write(folder)
        raise MienError("a crop is damaged")

    with pytest.raises(MienError, match="a crop is damaged"):
        made_once(tmp_path / "a", cut_off)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / ".a").mkdir()  # what a kill leaves
    assert read(made_once(tmp_path / "a", write)) == PICTURES


@pytest.mark.parametrize("file", ["pictures", "keys.arrow", "videos.arrow"])
def test_a_copy_that_has_lost_its_end_is_made_again(tmp_path: Path, file: str) -> None:
    made_once(tmp_path / "a", write)
    damaged = tmp_path / "a" / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read(made_once(tmp_path / "a", write)) == PICTURES


def test_a_picture_that_is_lost_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    copy = made_once(tmp_path / "a", write)
    (tmp_path / "a" / "pictures").write_bytes(b"")
    with pytest.raises(
        MienError, match=r"^the local copy of faces in .*/a is damaged: remove the folder, start again$"
    ):
        copy.pictures[9]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        made_once(tmp_path / "file" / "copies" / "a", write)
