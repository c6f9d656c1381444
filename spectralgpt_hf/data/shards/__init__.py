"""Parquet shards of training images: their format, how they are prepared, and how they are read.

May import `assets`, `files`, `modeling` and the rest of `data`.
"""
