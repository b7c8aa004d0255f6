"""SQL over a lake: DuckDB views of what is committed, read-only, with no extension to download.

The views `scores`, `faces`, `videos` and `labels` name the parts of the ledger's snapshot: what a job is just putting,
or left when it was killed, is not among them. A local lake is read by DuckDB itself, another through `common.store`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
from fsspec.spec import AbstractFileSystem

from common.errors import MienError, UsageError
from common.lake import Lake
from common.schema import SCHEMA_VERSION, TABLES

# What a row's folders say of it: columns of the views after those of the table.
PARTITION_COLUMNS = {
    "scores": ("model", "archive"),
    "faces": ("ingest", "archive"),
    "videos": ("job", "archive"),
    "labels": ("dataset",),
}
_SCHEMA = f"schema={SCHEMA_VERSION}"
# A job's outcomes are committed by the ledger of the rows that it makes.
_DATA_OF_JOB = {"job=score-": "scores/{}/model=", "job=ingest-": "faces/{}/ingest="}


class SqlError(UsageError):
    """A query that DuckDB does not accept."""


def committed(lake: Lake, table: str) -> list[str]:
    """Keys of the parts of `table` that the ledger knows; of labels, which no job commits, all."""
    ledgers = {"labels": (), "videos": ("scores", "faces")}.get(table, (table,))
    # The ledger first: a part that it names then is there when the parts are listed.
    records = {
        entry.key.removeprefix("_ledger/").removesuffix(".json")
        for ledger in ledgers
        for entry in lake.store.list(f"_ledger/{ledger}/{_SCHEMA}/")
    }
    parts = (entry.key for entry in lake.store.list(f"{table}/{_SCHEMA}/") if entry.key.endswith(".parquet"))
    return sorted(part for part in parts if table == "labels" or _record(part) in records)


def _record(part: str) -> str:
    """`<table>/<partition>/part-<unit>-<n>.parquet` -> `<data table>/<partition>/<unit>`."""
    folder, _, name = part.rpartition("/")
    for job, data in _DATA_OF_JOB.items():
        folder = folder.replace(f"videos/{_SCHEMA}/{job}", data.format(_SCHEMA))
    return f"{folder}/{name.removeprefix('part-').removesuffix('.parquet').split('-')[0]}"


class _LakeFiles(AbstractFileSystem):
    """A lake as the read-only file system `lake://<key>` that DuckDB can ask for ranges of an object."""

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

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: _LakeFiles) -> None:
        self._connection = connection
        self._files = files

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Column names, and the rows as they come. Raises `SqlError` for a question that cannot be answered."""
        with self._one_sentence():
            statements = [statement.type for statement in self._connection.extract_statements(sql)]
            if statements != [duckdb.StatementType.SELECT]:
                raise SqlError("a lake is asked one question at a time, and only read: give a single SELECT")
            # Through Arrow: DuckDB's own rows want a further package for times with a zone.
            reader = self._connection.sql(sql).to_arrow_reader(1000)
        return reader.schema.names, self._rows(reader)

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


def _sentence(error: duckdb.Error) -> MienError:
    said = _said(error)
    if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException | duckdb.InternalException):
        return MienError(f"the query could not be finished: {said}")
    return SqlError(f"{said} (tables: {', '.join(TABLES)}; DESCRIBE <table> lists the columns)")


def _said(error: duckdb.Error) -> str:
    """The first paragraph: what follows repeats the query."""
    return " ".join(str(error).split("\n\n")[0].split())


@contextmanager
def connect(lake: Lake) -> Iterator[Tables]:
    """The views of `lake` as they are committed at this moment. Raises `UsageError` if there is no lake."""
    if next(lake.store.list(), None) is None:
        raise UsageError(f"there is no lake at {lake.url}: give the folder or prefix that --lake named")
    files = _LakeFiles(lake)
    with tempfile.TemporaryDirectory(prefix="mien-sql-") as spill:
        connection = duckdb.connect(config={"temp_directory": spill, "autoinstall_known_extensions": False})
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_file_cache = false")
        connection.register_filesystem(files)
        try:
            for table, schema in TABLES.items():
                try:
                    _create_view(connection, lake, table, schema)
                except duckdb.Error as error:
                    problem = f"the table {table} of {lake.url} cannot be read: {_said(error)}"
                    raise files.error or MienError(problem) from None
            roots = [_path(lake, f"{table}/") for table in TABLES]
            connection.execute("SET python_enable_replacements = false")
            connection.execute(f"SET allowed_directories = {_literal(roots)}")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Tables(connection, files)
        finally:
            connection.unregister_filesystem(files.protocol)
            connection.close()


def _create_view(connection: duckdb.DuckDBPyConnection, lake: Lake, table: str, schema: pa.Schema) -> None:
    folders = [name for name in PARTITION_COLUMNS[table] if name not in schema.names]
    if parts := committed(lake, table):
        # By name: a nullable column may have been added since the older parts were written.
        source = (
            f"read_parquet({_literal([_path(lake, part) for part in parts])}, union_by_name = true,"
            " hive_partitioning = true, hive_types_autocast = false)"
        )
    else:
        source = f"empty_{table}"
        empty = schema.empty_table()
        for name in folders:
            empty = empty.append_column(name, pa.array([], pa.string()))
        connection.register(source, empty)
    chosen = ", ".join(f'"{name}"' for name in [*schema.names, *folders])
    connection.execute(f"CREATE VIEW {table} AS SELECT {chosen} FROM {source}")


def _path(lake: Lake, key: str) -> str:
    return f"{lake.url.rstrip('/')}/{key}" if lake.store.is_local else f"lake://{key}"


def _literal(texts: list[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
