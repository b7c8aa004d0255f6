"""What analysts open the tables with: DuckDB, Polars, pandas, Arrow, none with an extension, all see the same rows."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from lakes import put_part, sample_rows

from common.lake.layout import Lake
from common.lake.schema import TABLES

ROWS = 40


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Two units of every table, and everything that a job keeps beside them."""
    lake = Lake(str(tmp_path / "lake"))
    for table in TABLES:
        for unit, video in (("u1", "a"), ("u2", "b")):
            put_part(lake, table, unit, sample_rows(table, ROWS, video=video))
    for aside in ("_staging/scores/schema=1/u3/x.parquet", "_plans/scores/schema=1/00000001.parquet"):
        lake.store.create(aside, b"not a table")
    return tmp_path / "lake"


def glob(lake: Path, table: str) -> str:
    return f"{lake}/{table}/**/*.parquet"


@pytest.mark.parametrize("table", TABLES)
def test_every_reader_sees_every_row_and_null(lake: Path, table: str) -> None:
    names = TABLES[table].names
    expected = pa.concat_tables([sample_rows(table, ROWS, video=video) for video in "ab"])
    listed = ", ".join(names)
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    by_duckdb = connection.sql(f"SELECT {listed} FROM '{glob(lake, table)}'").to_arrow_table()
    by_polars = pl.read_parquet(glob(lake, table), hive_partitioning=True).select(names).to_arrow()
    by_pandas = pa.Table.from_pandas(
        pd.read_parquet(lake / table, dtype_backend="pyarrow")[names], preserve_index=False
    )
    by_arrow = pyarrow.dataset.dataset(lake / table, partitioning="hive").to_table(columns=names)
    for found in (by_duckdb, by_polars, by_pandas, by_arrow):
        assert found.cast(pa.schema([f.remove_metadata().with_nullable(True) for f in TABLES[table]])).to_pylist() == (
            expected.to_pylist()
        )
    fetched = "SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode <> 'STATICALLY_LINKED'"
    assert connection.sql(fetched).fetchall() == []


def test_readers_keep_null_apart_from_a_number(lake: Path) -> None:
    expected = sum(i / 8 for i in range(ROWS) if i % 3 != 2) / sum(i % 3 != 2 for i in range(ROWS))
    by_duckdb = duckdb.sql(f"SELECT avg(valence) FROM '{glob(lake, 'scores')}'").fetchall()[0][0]
    by_polars = pl.scan_parquet(glob(lake, "scores")).select(pl.col("valence").mean()).collect().item()
    by_pandas = pd.read_parquet(lake / "scores")["valence"].mean()
    assert [by_duckdb, by_polars, by_pandas] == pytest.approx([expected] * 3)


def test_folders_are_columns_of_text_in_every_reader(lake: Path) -> None:
    by_duckdb = duckdb.sql(f"SELECT DISTINCT model, archive FROM '{glob(lake, 'scores')}'").fetchall()
    by_polars = pl.read_parquet(glob(lake, "scores"), hive_partitioning=True).select("model", "archive").unique().rows()
    by_pandas = pd.read_parquet(lake / "scores")[["model", "archive"]].drop_duplicates().astype(str).values.tolist()
    assert by_duckdb == by_polars == [tuple(row) for row in by_pandas] == [("m-1a", "clips")]


def test_no_table_uses_an_extension_type_or_an_upper_case_name() -> None:
    for table in TABLES.values():
        for field in table:
            assert not isinstance(field.type, pa.BaseExtensionType)
            assert not pa.types.is_nested(field.type)
            assert field.name == field.name.lower()
