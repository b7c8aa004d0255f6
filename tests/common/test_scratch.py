from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
