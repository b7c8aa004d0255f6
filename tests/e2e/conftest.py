"""An archive and a bundle that the end-to-end tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import mien


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two seconds with a face in them."""
    out = tmp_path_factory.mktemp("synth")
    done = mien("synth", out, "--videos", 4, "--seconds", 2, "--seed", 5)
    assert done.status == 0, done.stderr
    return out / "videos"
