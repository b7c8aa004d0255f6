"""Progress: counts from many threads, lines in a log, a bar on a terminal."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from terminal import on_a_terminal

from common import log
from common import progress as progress_module
from common.progress import Progress


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    log.configure(json=True)

    def read() -> list[dict[str, Any]]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return [json.loads(line) for line in captured.err.splitlines()]

    yield read
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_updates_from_many_threads_all_count(lines: Any) -> None:
    with Progress(total=8_000) as progress:

        def work() -> None:
            for _ in range(1_000):
                progress.update(done=1, frames=3, failed=1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        state = progress.state()
    assert (state.done, state.frames, state.failed) == (8_000, 24_000, 8_000)


def test_elsewhere_than_on_a_terminal_a_line_comes_every_interval_and_at_the_end(lines: Any) -> None:
    with Progress(total=4, unit="video", interval_s=0.1) as progress:
        progress.update(done=1, frames=100)
        time.sleep(0.45)
        progress.update(done=3, frames=20, failed=1)
    written = lines()
    assert 2 <= len(written) <= 5  # a busy machine may skip a beat, never add one
    first, last = written[0], written[-1]
    assert {key: first[key] for key in ("event", "unit", "done", "total")} == {
        "event": "progress",
        "unit": "video",
        "done": 1,
        "total": 4,
    }
    assert first["frames_per_s"] > 0
    assert first["eta_s"] == pytest.approx(first["elapsed_s"] * 3, abs=0.3)
    assert (last["done"], last["failed"], last["frames"], last["eta_s"]) == (4, 1, 120, 0)


def test_nothing_is_said_before_the_interval_is_over(lines: Any) -> None:
    with Progress(total=2) as progress:
        progress.update(done=1)
        time.sleep(0.2)
        assert lines() == []


def test_no_eta_before_anything_is_finished(lines: Any) -> None:
    with Progress(total=2) as progress:
        progress.update(frames=50)
        assert progress.state().eta_s is None


def test_the_eta_follows_cost_where_it_is_given(lines: Any) -> None:
    with Progress(total=2, total_cost=1_000) as progress:
        time.sleep(0.1)
        progress.update(done=1, cost=900)
        state = progress.state()
    assert state.eta_s == pytest.approx(state.elapsed_s / 9)


@pytest.mark.parametrize("costs", [{}, {"total_cost": 1_000}])
def test_what_was_done_before_counts_as_done_and_not_for_the_eta(lines: Any, costs: dict[str, int]) -> None:
    with Progress(total=10, **costs) as progress:
        progress.skip(done=6, cost=600)
        assert progress.state().eta_s is None
        time.sleep(0.1)
        progress.update(done=1, cost=100)
        state = progress.state()
    assert state.done == 7
    assert state.eta_s == pytest.approx(state.elapsed_s * 3)


def test_the_eta_counts_down_while_frames_of_unfinished_videos_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers begin after 20 s; each does 10 frames a second of videos of 100 frames and 7 bytes a frame."""
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Progress(total=10, total_cost=7_000)
    now[0] = 20
    progress.update(frames=1)
    told: list[tuple[float, float]] = []
    for second in range(1, 51):
        now[0] = 20 + second
        progress.update(frames=20 - (second == 1))
        if second % 10 == 0:
            progress.update(done=2, cost=1_400, whole=200)
        eta = progress.state().eta_s
        assert (eta is None) == (second < 10)
        if eta is not None:
            told.append((second, eta))
    assert [eta for _, eta in told] == pytest.approx([50 - second for second, _ in told], abs=1e-6)


def test_until_something_is_done_it_says_what_goes_on(lines: Any) -> None:
    with Progress(total=4, interval_s=0.1, name="mae", doing=lambda: "loading models") as progress:
        time.sleep(0.25)
        progress.update(frames=1)
    first, *_, last = lines()
    assert (first["doing"], first["name"], first["done"]) == ("loading models", "mae", 0)
    assert "doing" not in last


def test_a_job_of_other_things_than_frames_names_them_and_adds_a_note(lines: Any) -> None:
    with Progress(total=2, unit="step", rate_of="sample", note=lambda: "loss 0.5") as progress:
        progress.update(done=2, frames=64)
    (line,) = lines()
    assert (line["samples"], line["note"]) == (64, "loss 0.5")
    assert line["samples_per_s"] > 0
    assert "frames" not in line


def test_an_error_inside_ends_it_all_the_same(lines: Any) -> None:
    with pytest.raises(KeyError), Progress(total=2):
        raise KeyError("x")
    assert lines()[-1]["done"] == 0
    assert "progress" not in [thread.name for thread in threading.enumerate()]


def test_nothing_to_do_is_no_division_by_zero(lines: Any) -> None:
    with Progress(total=0):
        pass
    assert lines()[-1]["total"] == 0


def test_on_a_terminal_there_is_a_bar_with_rate_and_eta_and_log_lines_stay_whole() -> None:
    program = """
import time
from common import log
from common.progress import Progress
log.configure()
note = lambda: "loss 0.5"
with Progress(total=4, interval_s=0.05, name="tapes", doing=lambda: "starting Ray", note=note) as progress:
    time.sleep(0.3)
    progress.update(done=1, frames=100, failed=1)
    time.sleep(0.3)
    log.get("x").warning("a line in between")
    progress.update(done=3, frames=20)
"""
    screen = on_a_terminal(program)
    assert "25%" in screen
    assert "tapes: 0/4 videos, starting Ray (0 s)" in screen
    assert "tapes: 1/4 videos" in screen
    assert "frames/s, ETA 0:00:0" in screen
    assert "1 failed, loss 0.5" in screen
    assert "4/4 videos" in screen
    (line,) = [line for line in screen.replace("\r", "\n").splitlines() if "a line in between" in line]
    assert "%" not in line
