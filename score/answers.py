"""Rows of a query as people and programs read them: an aligned table, CSV, or a JSON object a line."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

SHOWN_ROWS = 200
SHOWN_CHARACTERS = 60


def as_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of an aligned table, numbers to the right; the first `SHOWN_ROWS` rows, long values cut."""
    drawn = iter(rows)
    shown = [list(row) for row in islice(drawn, SHOWN_ROWS)]
    cells = [[_shown(value) for value in row] for row in shown]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(names)]
    numbers = [all(isinstance(row[i], int | float | None) for row in shown) for i in range(len(names))]

    def line(values: Sequence[str]) -> str:
        placed = zip(values, widths, numbers, strict=True)
        return "  ".join(v.rjust(width) if number else v.ljust(width) for v, width, number in placed).rstrip()

    yield line(names)
    yield line(["-" * width for width in widths])
    yield from map(line, cells)
    if next(drawn, None) is not None:
        yield f"... the first {SHOWN_ROWS} rows; --csv and --json give all"


def as_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of CSV with a header; NULL is an empty field, bytes are Base64."""
    for row in [names], rows:
        for values in row:
            buffer = io.StringIO()
            plain = [base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in values]
            csv.writer(buffer, lineterminator="").writerow(plain)
            yield buffer.getvalue()


def as_json(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A JSON object for each row; NaN is null, bytes are Base64, times are ISO 8601."""
    from pydantic_core import to_json

    for row in rows:
        values = dict(zip(names, row, strict=True))
        yield to_json(values, inf_nan_mode="null", bytes_mode="base64", fallback=str).decode()


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
