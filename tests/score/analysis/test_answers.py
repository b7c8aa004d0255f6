"""Rows of a query in the three forms."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime
from decimal import Decimal

from score.analysis.answers import SHOWN_ROWS, as_csv, as_json, as_text

NAMES = ["uri", "valence", "n", "crop", "at"]
ROWS = [
    ("/a, b.mp4", 0.123456789, 7, b"\xff\x00", datetime(2026, 1, 2, tzinfo=UTC)),
    ("x" * 99, None, 12345, None, None),
    ('two\n"lines"', float("nan"), 0, b"", None),
]


def test_text_aligns_columns_and_cuts_what_is_long() -> None:
    lines = list(as_text(NAMES, ROWS))
    assert lines[0].split() == NAMES
    assert [line.index("0.123457") + 8 for line in lines if "0.123457" in line] == [lines[0].index("valence") + 7]
    assert "NULL" in lines[3]
    assert "<2 bytes>" in lines[2]
    assert "x" * 57 + "..." in lines[3]
    assert len(lines) == 5
    assert all("\n" not in line for line in lines)


def test_text_of_many_rows_says_that_there_are_more() -> None:
    lines = list(as_text(["n"], ((i,) for i in range(10**6))))
    assert len(lines) == SHOWN_ROWS + 3
    assert "--csv" in lines[-1]


def test_text_of_no_rows_is_the_header() -> None:
    assert list(as_text(["a", "b"], [])) == ["a  b", "-  -"]


def test_csv_reads_back() -> None:
    read = list(csv.reader("\n".join(as_csv(NAMES, ROWS)).splitlines(keepends=True)))
    assert read[0] == NAMES
    assert read[1] == ["/a, b.mp4", "0.123456789", "7", "/wA=", "2026-01-02 00:00:00+00:00"]
    assert read[2] == ["x" * 99, "", "12345", "", ""]
    assert read[3] == ['two\n"lines"', "", "0", "", ""]


def test_json_is_an_object_a_line_without_nan() -> None:
    first, second, third = (json.loads(line) for line in as_json(NAMES, ROWS))
    assert first == {
        "uri": "/a, b.mp4",
        "valence": 0.123456789,
        "n": 7,
        "crop": "/wA=",
        "at": "2026-01-02T00:00:00Z",
    }
    assert second["valence"] is None
    assert third["valence"] is None


def test_numbers_are_numbers_whatever_type_duckdb_gives_them() -> None:
    row = (Decimal(15), Decimal("1.50"), Decimal(2**100), [Decimal("2.5"), math.inf], {"a": Decimal(3)})
    (line,) = as_json(["sum", "share", "large", "list", "struct"], [row])
    assert line == f'{{"sum":15,"share":1.5,"large":{2**100},"list":[2.5,null],"struct":{{"a":3}}}}'
    assert list(as_csv(["sum", "share"], [row[:2]]))[1] == "15,1.5"
    assert list(as_text(["frames"], [row[:1]]))[2] == "    15"


def test_text_of_a_plan_is_the_drawing() -> None:
    assert list(as_text(["explain_key", "explain_value"], [("physical_plan", "+-\n| Scan")])) == ["+-\n| Scan"]
