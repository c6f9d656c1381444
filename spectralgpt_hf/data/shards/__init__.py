"""Parquet shards: their format, how they are prepared, and how they are read. May import `data` and `modeling`."""
