"""A training of two processes, killed again and again at random moments, against one that never was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import random_kills
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
def test_thirty_kills_of_a_rank_of_all_and_of_checkpoints_under_way_lose_no_sample_and_repeat_none(
    tmp_path: Path,
) -> None:
    found = {}
    for name, kills in (("whole", "0"), ("killed", "30")):
        work = tmp_path / name
        work.mkdir()
        done = subprocess.run(
            [sys.executable, random_kills.__file__, work, kills, "1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        found[name] = load_file(work / "trained.safetensors")
    assert found["killed"]["seen"].tolist() == [random_kills.EPOCHS] * random_kills.EXAMPLES
    torch.testing.assert_close(found["killed"], found["whole"], rtol=0, atol=1e-6)
