"""Write vectors with their footprints as GeoParquet 1.1: https://geoparquet.org/releases/v1.1.0."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rasterio.crs import CRS

from ..files import atomic_path


def write_geoparquet(
    path: Path,
    ids: Sequence[str],
    footprints: np.ndarray,
    vectors: np.ndarray,
    *,
    crs: CRS | None,
    date: str | None,
    tags: Mapping[str, str],
) -> None:
    """Write one row per chip: `id`, `geometry`, `crs`, `date` and `vector`.

    Args:
        path: Destination. An existing file is replaced when the new one is complete.
        ids: Names of the chips.
        footprints: (n, 4, 2), corners of each chip, counter-clockwise.
        vectors: (n, D).
        crs: Reference system of the corners, or None.
        date: Date of the scene, or None.
        tags: Further metadata of the file.
    """
    count, width = vectors.shape
    flat = pa.array(vectors.astype(np.float32).ravel())
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "geometry": pa.array([_polygon(corners) for corners in footprints], pa.binary()),
            "crs": pa.array([None if crs is None else crs.to_string()] * count, pa.string()),
            "date": pa.array([date] * count, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        # Null means unknown. Without the key, readers would assume longitude and latitude.
        "crs": None if crs is None else crs.to_dict(projjson=True),
    }
    if count:
        column["bbox"] = [*footprints.min((0, 1)).tolist(), *footprints.max((0, 1)).tolist()]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    with atomic_path(path) as scratch:
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo), **tags}), scratch, compression="zstd")


def _polygon(corners: np.ndarray) -> bytes:
    """Return a ring of corners (n, 2) as well-known binary, little-endian."""
    ring = np.vstack([corners, corners[:1]]).astype("<f8")
    return struct.pack("<BIII", 1, 3, 1, len(ring)) + ring.tobytes()
