"""Finds the scored video of a lake that a user names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UsageError
from score.analysis.quoting import quoted
from score.analysis.sql import Tables

SHOWN_CHOICES = 8


@dataclass(frozen=True)
class Scored:
    """A video with scores: the model and the archive of its rows, its id and its URI."""

    model: str
    archive: str
    video_id: str
    uri: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.uri).name


def find(tables: Tables, name: str, model: str | None, archive: str | None) -> Scored:
    """The one scored video that is meant; `model` may be the beginning of a model's name. Raises `UsageError`."""
    wanted = ", ".join(map(quoted, {name, str(Path(name).absolute())}))
    rows = tables.query(
        "SELECT DISTINCT model, archive, video_id, uri, status = 'failed', reason, message FROM videos"
        f" WHERE model IS NOT NULL AND (video_name = {quoted(name)} OR uri IN ({wanted})) ORDER BY ALL"
    )[1]
    found = [(Scored(*row[:4]), *row[4:]) for row in rows]
    if not found:
        raise UsageError(_unknown(tables, name))
    done = [video for video, failed, *_ in found if not failed]
    if not done:
        raise UsageError(f"{name} could not be scored ({found[0][2]}: {found[0][3]}): there is nothing to draw")
    if model is not None:
        exact = [video for video in done if video.model == model]
        chosen = exact or [video for video in done if video.model.startswith(model)]
        done = _existing(chosen, f"no model {model} scored {name}", "--model", {video.model for video in done})
    if archive is not None:
        chosen = [video for video in done if video.archive == archive]
        done = _existing(chosen, f"{name} is not in archive {archive}", "--archive", {video.archive for video in done})
    for what, option, values in (
        ("was scored by several models", "--model", {video.model for video in done}),
        ("is in several archives", "--archive", {video.archive for video in done}),
        ("names several videos", "--video", {video.uri for video in done}),
    ):
        if len(values) > 1:
            raise UsageError(f"{name} {what}: choose one with {option}, {_choices(values)}")
    return done[0]


def _existing(chosen: list[Scored], problem: str, option: str, known: set[str]) -> list[Scored]:
    if not chosen:
        raise UsageError(f"{problem}: choose one with {option}, {_choices(known)}")
    return chosen


def _unknown(tables: Tables, name: str) -> str:
    alike = f"jaro_winkler_similarity(lower(video_name), {quoted(PurePosixPath(name).name.lower())})"
    near = tables.query(
        f"SELECT DISTINCT video_name, {alike} FROM videos WHERE model IS NOT NULL ORDER BY 2 DESC, 1 LIMIT 3"
    )[1]
    names = [video_name for video_name, _ in near]
    if not names:
        return "no video of this lake is scored yet: run mien score first"
    return f"no scored video of this lake is named {name}: did you mean {' or '.join(names)}?"


def _choices(values: Iterable[str]) -> str:
    known = sorted(values)
    more = f" or one of {len(known) - SHOWN_CHOICES} more" if len(known) > SHOWN_CHOICES else ""
    return ", ".join(known[:SHOWN_CHOICES]) + more
