"""Every benchmark still runs and tells its result in the form that all have."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.soak
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_quickly_and_prints_a_table_and_a_line_of_json(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},  # it leaves nothing with the user
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert list(result) == ["benchmark", "ratios", "figures", "machine"]
    assert result["benchmark"] == name
    assert result["ratios"] or result["figures"]
    assert all(math.isfinite(value) for value in (result["ratios"] | result["figures"]).values())
    assert len(table) >= 3, "a title, the names of the columns, and rows"
    assert {len(line) for line in table[1:]} == {len(table[1])}, "the columns are aligned"
