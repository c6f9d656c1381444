"""Rows of Parquet files that hold one GeoTIFF per band, which is how Major TOM is published on the Hub."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...modeling.bands import find_band


SUFFIX = ".parquet"
ROW = f"{SUFFIX}::"
"""Separator of the path of a file and the number of a row."""


def list_rows(path: str) -> list[str]:
    """Return a name for each row of a file whose columns hold bands: its path, `::` and the number of the row.

    A file without such columns has none.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            bands, count = _band_columns(file.schema_arrow), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}).") from error
    return [f"{path}::{row}" for row in range(count)] if bands else []


@contextmanager
def unpacked(path: str) -> Iterator[str]:
    """Yield a folder with one file per band of a row of `list_rows`, or any other path as it is.

    The folder has the name of the product, which contains the date. It is removed at the end.

    Raises:
        ValueError: If the file is damaged.
    """
    if ROW not in path:
        yield path
        return
    file, _, number = path.rpartition("::")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            row = _read_row(file, int(number))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot be read as Parquet ({error}).") from error
        folder = Path(scratch) / os.path.basename(str(row.get("product_id") or f"row_{number}"))
        folder.mkdir()
        for name, content in row.items():
            if isinstance(content, bytes):
                (folder / f"{name}.tif").write_bytes(content)
        yield str(folder)


def _band_columns(schema: pa.Schema) -> list[str]:
    held = (field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
    return [name for name in held if find_band(name)]


def _read_row(path: str, number: int) -> dict[str, bytes | str | None]:
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = [0, *accumulate(sizes)]
    group = int(np.searchsorted(starts, number, side="right")) - 1
    return _read_group(path, group).slice(number - starts[group], 1).to_pylist()[0]


@lru_cache(maxsize=1)
def _read_group(path: str, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = [name for name in ("product_id",) if name in file.schema_arrow.names]
        return file.read_row_group(group, [*names, *_band_columns(file.schema_arrow)])
