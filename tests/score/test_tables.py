"""SQL over a lake, local and on S3: what is committed and no more, read and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import MienError, UsageError
from common.lake import Lake
from common.schema import TABLES
from score.tables import PARTITION_COLUMNS, SqlError, committed, connect


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return Lake(str(tmp_path / "it's a lake"))
    return Lake(request.getfixturevalue("s3_url") + "/some/lake")


def ask(lake: Lake, sql: str) -> list[tuple]:
    with connect(lake) as tables:
        return list(tables.query(sql)[1])


def test_views_hold_the_rows_of_committed_parts(lake: Lake, make_rows, put_part) -> None:
    for table in TABLES:
        put_part(lake, table, "u1", make_rows(table, 10, video="a"))
        put_part(lake, table, "u2", make_rows(table, 7, video="b"))
    assert ask(lake, "SELECT count(*), avg(valence), max(model), max(archive) FROM scores WHERE video_id = 'b'") == [
        (7, pytest.approx((0 + 1 + 3 + 4 + 6) / 8 / 5), "m-1a", "clips")
    ]
    counts = "SELECT (SELECT count(*) FROM faces), (SELECT count(*) FROM videos), (SELECT count(*) FROM labels)"
    assert ask(lake, counts) == [(17, 17, 17)]
    assert ask(lake, "SELECT max(finished_at) FROM videos")[0][0].isoformat() == "2026-01-02T03:04:05.000009+00:00"
    assert ask(lake, "SELECT octet_length(crop) FROM faces LIMIT 1") == [(3,)]


def test_a_part_without_a_ledger_record_is_not_seen(lake: Lake, make_rows, put_part) -> None:
    for table in ("scores", "faces", "videos"):
        put_part(lake, table, "u1", make_rows(table, 10))
        put_part(lake, table, "u2", make_rows(table, 7), recorded=False)
        assert ask(lake, f"SELECT count(*) FROM {table}") == [(10,)]


def test_all_parts_of_a_unit_are_seen(lake: Lake, make_rows, put_part) -> None:
    for n in range(3):
        put_part(lake, "faces", "u1", make_rows("faces", 5), n=n)
    assert len(committed(lake, "faces")) == 3
    assert ask(lake, "SELECT count(*) FROM faces") == [(15,)]


def test_empty_tables_have_the_columns_and_types_of_full_ones(lake: Lake, make_rows, put_part, tmp_path: Path) -> None:
    lake.store.create("_plans/something", b"begun")
    empty = {table: ask(lake, f"SELECT column_name, column_type FROM (DESCRIBE {table})") for table in TABLES}
    for table in TABLES:
        assert [name for name, _ in empty[table]] == list(
            dict.fromkeys([*TABLES[table].names, *PARTITION_COLUMNS[table]])
        )
        assert ask(lake, f"SELECT count(*) FROM {table}") == [(0,)]
        put_part(lake, table, "u1", make_rows(table, 3))
        assert ask(lake, f"SELECT column_name, column_type FROM (DESCRIBE {table})") == empty[table]


def test_a_column_added_later_is_null_in_older_parts(lake: Lake, make_rows, put_part) -> None:
    newer = make_rows("scores", 6)
    put_part(lake, "scores", "u1", newer.drop_columns(["au26"]))
    put_part(lake, "scores", "u2", newer)
    assert ask(lake, "SELECT count(*), count(au26) FROM scores") == [(12, 4)]


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM score", "score does not exist.*tables: scores, faces, videos, labels"),
        ("SELECT valance FROM scores", 'valance.*"valence"'),
        ("SELECT face_status::int FROM scores", "face_status 0"),
        ("", "single SELECT"),
        ("SELECT 1; SELECT 2", "single SELECT"),
    ],
)
def test_a_bad_question_is_answered_with_one_sentence(lake: Lake, make_rows, put_part, sql, sentence) -> None:
    put_part(lake, "scores", "u1", make_rows("scores", 3))
    with pytest.raises(SqlError, match=sentence) as caught:
        ask(lake, sql)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "sql",
    [
        "COPY scores TO '{lake}/scores/x.csv'",
        "EXPLAIN ANALYZE COPY scores TO '{lake}/scores/x.csv'",
        "COPY scores TO '{tmp}/x.csv'",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW scores",
        "ATTACH '{tmp}/x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM '{tmp}/aside.csv'",
        "SELECT * FROM query('COPY scores TO ''{tmp}/x.csv''')",
        "SELECT * FROM lake",
    ],
)
def test_a_query_reads_the_tables_and_touches_nothing_else(lake: Lake, make_rows, put_part, tmp_path, sql) -> None:
    put_part(lake, "scores", "u1", make_rows("scores", 3))
    (tmp_path / "aside.csv").write_text("a,b\n1,2\n")
    before = sorted(entry.key for entry in lake.store.list()), sorted(tmp_path.glob("*"))
    with pytest.raises(MienError):
        ask(lake, sql.format(lake=lake.url.replace("'", "''"), tmp=tmp_path))
    assert (sorted(entry.key for entry in lake.store.list()), sorted(tmp_path.glob("*"))) == before


def test_no_lake_is_said_to_be_none(lake: Lake) -> None:
    with pytest.raises(UsageError, match="there is no lake at"):
        ask(lake, "SELECT 1")


def test_a_part_that_cannot_be_read_is_named(lake: Lake, make_rows, put_part) -> None:
    key = put_part(lake, "scores", "u1", make_rows("scores", 3))
    lake.store.replace(key, b"garbage" * 10, lake.store.stat(key).version)
    with pytest.raises(MienError, match="part-u1"):
        ask(lake, "SELECT avg(valence) FROM scores")
