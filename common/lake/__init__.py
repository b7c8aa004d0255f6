"""What a lake holds and where: schemas, paths, Parquet parts, and which parts are committed."""
