"""Temporary files: a process's own place, safe from other processes, gone when it is."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from common import scratch
from common.errors import StoreError

CLAIM = "from common import scratch; import tempfile, sys; print(scratch.claim(), flush=True); "


def claim(folder: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM + then],
        env={"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_temporary_files_of_a_killed_process_go_when_the_next_one_starts_and_a_living_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    living, killed = (claim(tmp_path, "open(tempfile.mkstemp()[1]).read(); sys.stdin.read()") for _ in range(2))
    folders = [Path(process.stdout.readline().strip()) for process in (living, killed)]
    killed.kill()
    killed.wait()
    assert all(folder.is_dir() for folder in folders)
    own = claim(tmp_path, "").communicate()[0].strip()
    assert folders[0].is_dir()
    assert not folders[1].exists()
    assert not Path(own).exists()  # an end in order leaves nothing
    living.communicate()


def test_a_folder_that_another_process_takes_for_abandoned_before_it_is_locked_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flock = fcntl.flock

    def late(lock: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        for folder in tmp_path.iterdir():
            scratch._remove_if_abandoned(folder)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    own = scratch.claim()
    assert list(tmp_path.iterdir()) == [own]


def test_a_block_leaves_nothing_of_processes_that_were_killed_in_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys, tempfile\nfrom common import scratch\n"
        "with scratch.claimed() as own, scratch.folder() as folder:\n"
        "    assert folder.startswith(f'{own}/')\n"
        "    worker = 'import os; from common import scratch; scratch.claim(); os.kill(os.getpid(), 9)'\n"
        "    subprocess.run([sys.executable, '-c', worker], env={'TMPDIR': sys.argv[1]})\n"
        "    assert len(os.listdir(sys.argv[1])) == 2\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], env={"TMPDIR": str(tmp_path)})
    assert ended.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_something_stays_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    busy = scratch.claim() / "busy"
    busy.mkdir()
    with monkeypatch.context() as stuck:
        stuck.setattr(shutil, "rmtree", lambda *given, **more: None)
        scratch.release()
    assert busy.is_dir()
    with scratch.claimed():
        assert not busy.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_temporary_files_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for make in (scratch.folder, scratch.claim):
        with pytest.raises(StoreError, match=r"cannot write .*gone: a folder in its path is gone"):
            make()
