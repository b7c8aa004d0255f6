"""The page docs/tables.md, made from the schemas: `python -m common.lake.page` prints it."""

from __future__ import annotations

from common.lake.schema import ABOUT, FOLDERS, SCHEMA_VERSION, TABLES

# Readers that need an option to show the folders' columns.
READERS = {
    "Polars, with a glob": 'pl.scan_parquet("LAKE/scores/**/*.parquet", hive_partitioning=True)',
    "Daft": 'daft.read_parquet("LAKE/scores/**/*.parquet", hive_partitioning=True)',
    "DataFusion": 'context.register_listing_table("scores", "LAKE/scores/", '
    'table_partition_cols=[("schema", pa.int32()), ("model", pa.string()), ("archive", pa.string())])',
}


def to_markdown() -> str:
    """The tables as `docs/tables.md`: one section each, a line per column."""
    lines = [
        *(
            "# Tables",
            "",
            f"Generated from `common/lake/schema.py` by `make docs`; schema version {SCHEMA_VERSION}.",
            "",
        ),
        "The last columns of each table are in the names of its folders, as is `schema`, the version. DuckDB, pandas,",
        "pyarrow, Spark and chDB read them with no option. The others must be told to:",
        "",
        "| reader | how to keep the folders' columns |",
        "|---|---|",
        *(f"| {reader} | `{call}` |" for reader, call in READERS.items()),
        "",
    ]
    for name, schema in TABLES.items():
        lines += [
            f"## {name}",
            "",
            ABOUT[name],
            "",
            "| column | type | unit | range | NULL when | meaning |",
            "|---|---|---|---|---|---|",
        ]
        for field in schema:
            said = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
            cells = (
                field.name,
                str(field.type),
                said.get("unit", ""),
                said.get("range", ""),
                said["null"],
                said["meaning"],
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines += [f"| {column} | string, folder |  |  | never | {about} |" for column, about in FOLDERS[name].items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_markdown(), end="")
