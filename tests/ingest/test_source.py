"""A planned video to its faces: what is said of it on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.commit.units import Video
from ingest import source
from ingest.faces import FacesOptions
from ingest.fetch import Fetcher


def test_decoder_that_was_given_up_is_logged_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def opened(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(fallback="decode_error: decord failed")

    @contextmanager
    def fetched(*_: object) -> Iterator[Path]:
        yield Path("clip.mp4")

    monkeypatch.setattr(source, "open_video", opened)
    monkeypatch.setattr(source, "FaceFinder", lambda options: SimpleNamespace(options=options, find=lambda reader: []))
    monkeypatch.setattr(Fetcher, "fetch", fetched)
    with caplog.at_level(logging.WARNING), source.FaceSource(FacesOptions()).open(Video("/a/clip.mp4", "v", 1)):
        pass
    assert "decord failed" in caplog.text
    assert "/a/clip.mp4" in caplog.text
