"""The `mien` command as a user runs it: a subprocess, its last line of JSON, its exit status."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MIEN = Path(sys.executable).parent / "mien"
FLOATS = ("valence", "arousal", "expr_neutral", "expr_other", "au01", "au26", "det_score", "box_x0", "box_y1")


@dataclass(frozen=True)
class Done:
    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.stdout.strip().splitlines()[-1])


def start(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [MIEN, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mien(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """Runs a command to its end."""
    process = start(*arguments, cwd=cwd, **environment)
    stdout, stderr = process.communicate(timeout=800)
    return Done(process.returncode, stdout, stderr)


def table(lake: Path, name: str) -> pa.Table:
    """All rows of a table, as a raw glob finds them."""
    parts = [pq.read_table(part, partitioning=None) for part in sorted((lake / name).rglob("*.parquet"))]
    return pa.concat_tables(parts)


def rows(lake: Path) -> list[dict[str, Any]]:
    """The scores that a second run must reproduce, sorted by video name, frame and track."""
    found = [
        row | {"uri": row["uri"].rsplit("/", 1)[-1], "video_id": None} for row in table(lake, "scores").to_pylist()
    ]
    return sorted(found, key=lambda row: (row["uri"], row["frame_index"], row["track_id"] or 0))


def assert_same(found: list[dict[str, Any]], golden: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    keys = ("uri", "frame_index", "track_id", "face_status", "time_s")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in golden]
    for mine, theirs in zip(found, golden, strict=True):
        for name in FLOATS:
            assert (mine[name] is None) == (theirs[name] is None)
            if mine[name] is not None:
                assert math.isclose(mine[name], theirs[name], abs_tol=tolerance * max(1, abs(theirs[name]) / 100))
