"""SQL over a lake: DuckDB views of committed parts, read-only, with no extension to download.

The views `scores`, `faces`, `videos` and `labels` read the parts that the ledger records (`common.lake.committed`);
`score.analysis.views` has what is derived from them.
DuckDB reads a local lake itself, and any other through the `Store`. The parts of a table are listed when a question
first names it; a part is opened only if its folders pass the filters of the question.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
from fsspec.spec import AbstractFileSystem

from common import scratch
from common.errors import MienError, UsageError
from common.lake.committed import committed
from common.lake.format import check_existing
from common.lake.layout import PARTITION_KEYS, Lake
from common.lake.schema import TABLES
from score.analysis.quoting import quoted
from score.analysis.views import READS, definition

# A new dataset may add columns to `labels`; in the other tables all parts have the same columns.
_MAY_DIFFER = ("labels",)
_CATALOG = re.compile(r"\b(show|describe|information_schema|duckdb_\w+)\b", re.IGNORECASE)
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([\w\s,]*\)\s*)?", re.IGNORECASE)
_UNKNOWN = re.compile(r"Catalog Error: Table with name (\S+) does not exist")
NAMES = (*TABLES, *READS)
TABLES_AND_VIEWS = [name for name in NAMES if name != "matched"]
# A PIVOT that looks up its columns is several statements, as is a COPY of one.
_PIVOT = re.compile(r"\s*(pivot|select|from|with)\b", re.IGNORECASE)


class SqlError(UsageError):
    """A query that DuckDB does not accept."""


class _LakeFiles(AbstractFileSystem):
    """A lake as the read-only file system `lake://<key>`, from which DuckDB reads ranges of objects."""

    protocol = "lake"
    cachable = False

    def __init__(self, lake: Lake) -> None:
        super().__init__()
        self._store = lake.store
        self.error: MienError | None = None  # DuckDB passes exceptions on as text only

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("lake://")

    def glob(self, path: str, **options: Any) -> list[str]:
        return [self._strip_protocol(path)]  # views name every part

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        key = self._strip_protocol(path)
        with self._noting():
            entry = self._store.stat(key)
        if entry is None:
            raise FileNotFoundError(key)
        return {"name": key, "size": entry.size, "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # for DuckDB's cache of files, which is off

    def _open(self, path: str, mode: str = "rb", **options: Any) -> BinaryIO:
        if mode != "rb":
            raise PermissionError("a lake is read-only here")
        with self._noting():
            return self._store.open_input(self._strip_protocol(path))

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except MienError as error:
            self.error = error
            raise


class Tables:
    """A connection to the views of one lake. Queries may read them, and nothing else of this machine."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake, files: _LakeFiles) -> None:
        self._connection = connection
        self._lake = lake
        self._files = files
        self._shown: set[str] = set()

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Column names, and the rows, streamed. Raises `SqlError` for a query that DuckDB does not accept.

        All queries of a connection see the parts that were committed when one of them first named the table.
        """
        with self._one_sentence():
            if not self._only_reads(sql):
                raise SqlError("a lake is asked one question at a time, and only read: give a single SELECT")
            for table in _named(sql):
                self._show(table)
            # Through Arrow: for times with a zone, DuckDB's own rows need a further package.
            reader = self._connection.sql(sql).to_arrow_reader(1000)
        return reader.schema.names, self._rows(reader)

    def _only_reads(self, sql: str) -> bool:
        kinds = [statement.type for statement in self._connection.extract_statements(sql)]
        if kinds == [duckdb.StatementType.EXPLAIN]:
            explain = _EXPLAIN.match(sql)  # EXPLAIN ANALYZE runs what it explains
            return explain is not None and self._only_reads(sql[explain.end() :])
        if kinds == [duckdb.StatementType.MULTI]:
            return _PIVOT.match(sql) is not None
        return kinds == [duckdb.StatementType.SELECT]

    def _show(self, name: str) -> None:
        """Makes a view of a table, or one that is derived from it."""
        if name in self._shown:
            return
        table = READS.get(name, name)
        if table != name:
            self._show(table)
        try:
            if table == name:
                _create(self._connection, self._lake, table)
            else:
                self._connection.execute(definition(name, self._lake))
        except duckdb.Error as error:
            problem = f"the table {table} of {self._lake.url} cannot be read: {_said(error)}"
            raise self._files.error or MienError(problem) from None
        self._shown.add(name)

    def _rows(self, reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
        with self._one_sentence():
            for batch in reader:
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._files.error or _sentence(error) from None


def _named(sql: str) -> list[str]:
    """What a question may be about: the tables and views whose names are in it, or all if it asks what there is."""
    named = [name for name in NAMES if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    return named or (list(NAMES) if _CATALOG.search(sql) else [])


def _sentence(error: duckdb.Error) -> MienError:
    said = _said(error)
    if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException | duckdb.InternalException):
        return MienError(f"the query could not be finished: {said}")
    if unknown := _UNKNOWN.match(said):
        near = difflib.get_close_matches(unknown[1].lower(), TABLES_AND_VIEWS, n=1)
        said = f"there is no table {unknown[1]}" + (f": did you mean {near[0]}?" if near else "")
    tables = ", ".join(TABLES_AND_VIEWS)
    return SqlError(f"{said} (tables: {tables}, matched('MODEL', 'OTHER'); DESCRIBE <table> lists the columns)")


def _said(error: duckdb.Error) -> str:
    """The first paragraph of the message: the rest repeats the query."""
    return " ".join(str(error).split("\n\n")[0].split())


@contextmanager
def connect(lake: Lake) -> Iterator[Tables]:
    """Questions to `lake`. Raises `UsageError` if there is no lake."""
    check_existing(lake)
    files = _LakeFiles(lake)
    with scratch.folder() as spill:
        connection = duckdb.connect(config={"temp_directory": spill, "autoinstall_known_extensions": False})
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_file_cache = false")
        connection.register_filesystem(files)
        try:
            roots = [_path(lake, f"{table}/") for table in TABLES]
            connection.execute("SET python_enable_replacements = false")
            connection.execute(f"SET allowed_directories = {_literal(roots)}")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Tables(connection, lake, files)
        finally:
            connection.unregister_filesystem(files.protocol)
            connection.close()


def _create(connection: duckdb.DuckDBPyConnection, lake: Lake, table: str) -> None:
    """A view of the committed parts of `table`, or a table without rows if there are none."""
    schema = TABLES[table]
    if parts := [_path(lake, part.key) for part in committed(lake, table)]:
        chosen = ", ".join(f'"{name}"' for name in [*schema.names, *PARTITION_KEYS[table]])
        union = "true" if table in _MAY_DIFFER else "false"  # true opens every part, whatever is asked
        connection.execute(
            f"CREATE VIEW {table} AS SELECT {chosen} FROM read_parquet({_literal(parts)},"
            f" union_by_name = {union}, hive_partitioning = true, hive_types_autocast = false)"
        )
    else:
        empty = schema.empty_table()
        for name in PARTITION_KEYS[table]:
            empty = empty.append_column(name, pa.array([], pa.string()))
        connection.register("empty", empty)
        connection.execute(f"CREATE TABLE {table} AS FROM empty")
        connection.unregister("empty")


def _path(lake: Lake, key: str) -> str:
    # DuckDB takes every name=value in a path for a partition. If the lake's own path has one, DuckDB only gets keys.
    return f"{lake.url.rstrip('/')}/{key}" if lake.store.is_local and "=" not in lake.url else f"lake://{key}"


def _literal(texts: list[str]) -> str:
    return "[" + ", ".join(map(quoted, texts)) + "]"
