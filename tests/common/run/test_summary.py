"""What a run counts and says at its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.cli import JobOptions
from common.commit.record import LedgerRecord, Outcome
from common.commit.units import Unit, Video
from common.run.summary import MAX_FAILURES_SHOWN, Counts, Summary, tell


def committed(statuses: list[str]) -> Counts:
    """Of a unit of videos that ended so, each with three frames."""
    unit = Unit("u1", tuple(Video(f"/v/{number}.mp4", "1", 1, "u1") for number in range(len(statuses))))
    rows: list[dict[str, Any]] = [
        {
            "uri": video.uri,
            "video_id": video.video_id,
            "status": status,
            "reason": None if status == "ok" else "decode_error",
            "message": None if status == "ok" else f"key is {'A' * 40}",
            "frames": 3,
        }
        for video, status in zip(unit.videos, statuses, strict=True)
    ]
    outcomes = tuple(Outcome(row, 0, "a1", {0: 3}) for row in rows)
    return Counts.of(LedgerRecord("u1", "scores/model=m/archive=a", 1, outcomes), unit)


def test_a_summary_counts_every_video_and_keeps_the_failures_that_are_shown() -> None:
    summary = Summary(planned=MAX_FAILURES_SHOWN + 20)
    summary.add(committed(["failed"] * MAX_FAILURES_SHOWN + ["partial"] * 10 + ["ok"] * 10))
    assert (summary.ok, summary.partial, summary.failed) == (10, 10, MAX_FAILURES_SHOWN)
    assert (summary.frames, summary.rows) == (3 * summary.planned, 3 * summary.planned)
    assert len(summary.failures) == MAX_FAILURES_SHOWN


def test_failures_are_named_up_to_a_number_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(planned=MAX_FAILURES_SHOWN + 5)
    summary.add(committed(["failed"] * (MAX_FAILURES_SHOWN + 5)))
    assert tell(summary, JobOptions(lake="lake", json=True)) == 3
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert sum("/v/" in line for line in lines) == MAX_FAILURES_SHOWN
    assert "... and 5 more: see the table videos" in lines
    assert json.loads(captured.out)["failed"] == MAX_FAILURES_SHOWN + 5


def test_the_end_says_under_which_name_the_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(keys={"model": "m-0123456789ab-4c", "archive": "main"}, planned=1, ok=1)
    tell(summary, JobOptions(lake="lake", json=True))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "model m-0123456789ab-4c, archive main"
    told = json.loads(captured.out)
    assert (told["model"], told["archive"]) == ("m-0123456789ab-4c", "main")


def test_a_job_without_failures_ends_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Summary(planned=1, ok=1), JobOptions(lake="lake")) == 0
    assert tell(Summary(planned=1, partial=1), JobOptions(lake="lake")) == 0
