"""The layout of a lake: schemas, paths, Parquet parts, and which parts are committed."""
