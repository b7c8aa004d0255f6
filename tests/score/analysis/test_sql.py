"""SQL over a lake, local and on S3: what is committed and no more, read and nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest
from lakes import put_part, sample_rows

from common.errors import MienError, UsageError
from common.lake.format import claim
from common.lake.layout import Lake
from common.lake.schema import FOLDERS, TABLES, VIDEOS
from common.store.store import Store
from score.analysis.sql import SqlError, connect
from score.analysis.status import status


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return Lake(str(tmp_path / "it's a lake"))
    return Lake(request.getfixturevalue("s3_url") + "/some/lake")


def ask(lake: Lake, sql: str) -> list[tuple]:
    with connect(lake) as tables:
        return list(tables.query(sql)[1])


def test_views_hold_the_rows_of_committed_parts(lake: Lake) -> None:
    for table in TABLES:
        put_part(lake, table, "u1", sample_rows(table, 10, video="a"))
        put_part(lake, table, "u2", sample_rows(table, 7, video="b"))
    assert ask(lake, "SELECT count(*), avg(valence), max(model), max(archive) FROM scores WHERE video_id = 'b'") == [
        (7, pytest.approx((0 + 1 + 3 + 4 + 6) / 8 / 5), "m-1a", "clips")
    ]
    counts = "SELECT (SELECT count(*) FROM faces), (SELECT count(*) FROM videos), (SELECT count(*) FROM labels)"
    assert ask(lake, counts) == [(17, 17, 17)]
    assert ask(lake, "SELECT max(finished_at) FROM videos")[0][0].isoformat() == "2026-01-02T03:04:05.000009+00:00"
    assert ask(lake, "SELECT octet_length(crop) FROM faces LIMIT 1") == [(3,)]


def test_a_part_without_a_ledger_record_is_not_seen(lake: Lake) -> None:
    for table in ("scores", "faces", "videos"):
        put_part(lake, table, "u1", sample_rows(table, 10))
        put_part(lake, table, "u2", sample_rows(table, 7), recorded=False)
        assert ask(lake, f"SELECT count(*) FROM {table}") == [(10,)]


def test_all_parts_of_a_unit_are_seen(lake: Lake) -> None:
    for n in range(3):
        put_part(lake, "faces", "u1", sample_rows("faces", 5), n=n)
    assert ask(lake, "SELECT count(*) FROM faces") == [(15,)]


def test_empty_tables_have_the_columns_and_types_of_full_ones(lake: Lake, tmp_path: Path) -> None:
    claim(lake)
    empty = {table: ask(lake, f"SELECT column_name, column_type FROM (DESCRIBE {table})") for table in TABLES}
    for table in TABLES:
        assert [name for name, _ in empty[table]] == [*TABLES[table].names, *FOLDERS[table]]
        assert ask(lake, f"SELECT count(*) FROM {table}") == [(0,)]
        put_part(lake, table, "u1", sample_rows(table, 3))
        assert ask(lake, f"SELECT column_name, column_type FROM (DESCRIBE {table})") == empty[table]


def test_a_column_that_a_dataset_brought_is_null_in_older_labels(lake: Lake) -> None:
    newer = sample_rows("labels", 6)
    put_part(lake, "labels", "u1", newer.drop_columns(["au26"]))
    put_part(lake, "labels", "u2", newer)
    assert ask(lake, "SELECT count(*), count(au26) FROM labels") == [(12, 4)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The objects that are opened through the store from here on."""
    keys: set[str] = set()
    open_input = Store.open_input
    monkeypatch.setattr(Store, "open_input", lambda self, key: keys.add(key) or open_input(self, key))
    return keys


@pytest.fixture
def counted(tmp_path: Path) -> Lake:
    """Two models over two archives, three units each, and labels; all of it is read through the store."""
    lake = Lake(str(tmp_path / "archive=z" / "lake"))
    for model, archive, n in product(("m-1", "m-2"), ("a", "b"), range(3)):
        keys = {"model": model, "archive": archive}
        put_part(lake, "scores", f"u{n}", sample_rows("scores", 5), keys=keys)
        video = sample_rows("videos", 1)
        video = video.set_column(VIDEOS.get_field_index("status"), VIDEOS.field("status"), pa.array(["ok"]))
        put_part(lake, "videos", f"u{n}", video, keys={"job": f"score-{model}", "archive": archive})
    put_part(lake, "labels", "u0", sample_rows("labels", 5))
    return lake


def test_a_question_that_names_no_table_opens_nothing(counted: Lake, opened: set[str]) -> None:
    assert ask(counted, "SELECT 1") == [(1,)]
    assert opened == set()


def test_only_parts_that_pass_the_filter_on_their_folders_are_opened(counted: Lake, opened: set[str]) -> None:
    assert ask(counted, "SELECT count(valence) FROM scores WHERE model = 'm-2' AND archive = 'b'") == [(3 * 4,)]
    assert {key.rpartition("/")[0] for key in opened} == {
        "scores/schema=1/model=m-1/archive=a",  # the first part, for the columns
        "scores/schema=1/model=m-2/archive=b",
    }
    assert len(opened) == 1 + 3


def test_status_reads_each_part_once(counted: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_input = Store.open_input
    monkeypatch.setattr(Store, "open_input", lambda self, key: opened.append(key) or open_input(self, key))
    found = status(counted)
    assert [(job.config, job.archive, job.ok, job.rows) for job in found.jobs] == [
        *(("m-1", "a", 3, 15), ("m-1", "b", 3, 15)),
        *(("m-2", "a", 3, 15), ("m-2", "b", 3, 15)),
    ]
    # DuckDB opens a part for its footer and for its rows; the first of a table also for the columns.
    assert sorted(Counter(opened).values())[: -len(("scores", "videos", "labels"))] == [2] * (11 + 11)


def test_folders_above_the_lake_are_no_columns_of_it(counted: Lake) -> None:
    found = ask(counted, "SELECT DISTINCT model, archive FROM scores ORDER BY ALL")
    assert found == [("m-1", "a"), ("m-1", "b"), ("m-2", "a"), ("m-2", "b")]


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("FROM scores SELECT count(*)", 6),
        ("WITH few AS (SELECT * FROM scores LIMIT 2) SELECT count(*) FROM few", 2),
        ("DESCRIBE scores", "video_id"),
        ("SHOW TABLES", "faces"),
        ("SUMMARIZE scores", "video_id"),
        ("PIVOT scores ON face_status USING count(*) GROUP BY video_id", "a"),
        ("FROM (PIVOT scores ON face_status USING count(*) GROUP BY video_id)", "a"),
        ("EXPLAIN SELECT avg(valence) FROM scores", "physical_plan"),
        ("EXPLAIN ANALYZE SELECT avg(valence) FROM scores", "analyzed_plan"),
        ("SELECT table_name FROM information_schema.tables ORDER BY 1", "faces"),
    ],
)
def test_analysts_ask_in_any_form_that_only_reads(lake: Lake, sql: str, first: object) -> None:
    put_part(lake, "scores", "u1", sample_rows("scores", 6))
    assert ask(lake, sql)[0][0] == first


def test_the_catalog_lists_the_tables_and_nothing_else(lake: Lake) -> None:
    put_part(lake, "scores", "u1", sample_rows("scores", 6))
    assert [name for (name,) in ask(lake, "SHOW TABLES")] == sorted([*TABLES, "models", "frames", "tracks"])


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELEC 1", "syntax error"),
        (
            "SELECT * FROM score",
            "^there is no table score: did you mean scores. .tables: scores, faces, videos, labels",
        ),
        ("SELECT * FROM xyz", "^there is no table xyz .tables: scores"),
        ("DESCRIBE matched", r"there is no table matched .*matched\('MODEL', 'OTHER'\)"),
        ("SELECT valance FROM scores", 'valance.*"valence"'),
        ("SELECT face_status::int FROM scores", "face_status 0"),
        ("", "single SELECT"),
        ("SELECT 1; SELECT 2", "single SELECT"),
    ],
)
def test_a_bad_query_is_answered_with_one_sentence(lake: Lake, sql, sentence) -> None:
    put_part(lake, "scores", "u1", sample_rows("scores", 3))
    with pytest.raises(SqlError, match=sentence) as caught:
        ask(lake, sql)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "sql",
    [
        "COPY scores TO '{lake}/scores/x.csv'",
        "EXPLAIN ANALYZE COPY scores TO '{lake}/scores/x.csv'",
        "EXPLAIN (ANALYZE) COPY scores TO '{lake}/scores/x.csv'",
        "EXPLAIN EXPLAIN ANALYZE COPY scores TO '{lake}/scores/x.csv'",
        "COPY (PIVOT scores ON face_status USING count(*)) TO '{lake}/scores/x.csv'",
        "/* */ COPY (PIVOT scores ON face_status USING count(*)) TO '{lake}/scores/x.csv'",
        "EXPLAIN (FORMAT json /* ) SELECT 1 -- */, ANALYZE) COPY scores TO '{lake}/scores/x.csv'",
        "/* explain (*/ EXPLAIN ANALYZE COPY scores TO '{lake}/scores/x.csv' (FORMAT csv) -- */ SELECT 1",
        "EXPLAIN /* */ ANALYZE COPY scores TO '{lake}/scores/x.csv'",
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
def test_a_query_reads_the_tables_and_touches_nothing_else(lake: Lake, tmp_path, sql) -> None:
    put_part(lake, "scores", "u1", sample_rows("scores", 3))
    (tmp_path / "aside.csv").write_text("a,b\n1,2\n")
    before = sorted(entry.key for entry in lake.store.list()), sorted(tmp_path.glob("*"))
    with pytest.raises(MienError):
        ask(lake, sql.format(lake=lake.url.replace("'", "''"), tmp=tmp_path))
    assert (sorted(entry.key for entry in lake.store.list()), sorted(tmp_path.glob("*"))) == before


def test_no_lake_is_said_to_be_none(lake: Lake) -> None:
    with pytest.raises(UsageError, match="there is no lake at"):
        ask(lake, "SELECT 1")


def test_a_part_that_cannot_be_read_is_named(lake: Lake) -> None:
    key = put_part(lake, "scores", "u1", sample_rows("scores", 3))
    lake.store.replace(key, b"garbage" * 10, lake.store.stat(key).version)
    with pytest.raises(MienError, match="part-u1"):
        ask(lake, "SELECT avg(valence) FROM scores")
