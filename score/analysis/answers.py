"""Formats for the rows of a query: an aligned table, CSV, or one JSON object per line."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from common.aligned import aligned

SHOWN_ROWS = 200
SHOWN_CHARACTERS = 60
PLAN = ["explain_key", "explain_value"]  # what DuckDB calls the columns of EXPLAIN


def as_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of an aligned table of the first `SHOWN_ROWS` rows, long values shortened. EXPLAIN's plans unchanged."""
    if list(names) == PLAN:
        yield from (str(plan) for _, plan in rows)
        return
    drawn = iter(rows)
    shown = [list(row) for row in islice(drawn, SHOWN_ROWS)]
    cells = [[_shown(value) for value in row] for row in shown]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(names)]
    numbers = [all(isinstance(row[i], int | float | Decimal | None) for row in shown) for i in range(len(names))]
    yield from aligned([names, ["-" * width for width in widths], *cells], numbers)
    if next(drawn, None) is not None:
        yield f"... the first {SHOWN_ROWS} rows; --csv and --json give all"


def as_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of CSV with a header; NULL and NaN are an empty field, bytes are Base64."""
    for row in [names], rows:
        for values in row:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="").writerow(map(_plain, values))
            yield buffer.getvalue()


def as_json(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A JSON object for each row; NaN is null, bytes are Base64, times are ISO 8601."""
    from pydantic_core import to_json

    for row in rows:
        values = dict(zip(names, map(_plain, row), strict=True))
        yield to_json(values, fallback=str).decode()


def _plain(value: Any) -> Any:
    """The value for CSV and JSON: decimals as int or float, None for NaN and infinity, bytes as Base64 (RFC 4648)."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():  # a sum of integers, or a number written with a point
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
