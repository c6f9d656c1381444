"""Write vectors of chips as GeoParquet 1.1, https://geoparquet.org/releases/v1.1.0, with the columns of Major TOM.

The footprints are in longitude and latitude, so that tables of different UTM zones, and of many scenes, are one table.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rasterio.crs import CRS
from rasterio.warp import transform, transform_geom

from ..files import atomic_path
from .grid_cells import find_cell
from .longitudes import unroll
from .quantization import HALF, least_cosine, quantize_rows, to_half, warn_of_coarse_steps


ROW_GROUP = 1000
"""Rows that are read together: with vectors of 1000 numbers 4 MB, of which the Hub's viewer reads one at a time."""

WGS84 = CRS.from_user_input("OGC:CRS84")
EDGES = ("xmin", "ymin", "xmax", "ymax")
VECTOR_DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True, eq=False)
class Chips:
    """Chips of one scene that have data.

    Attributes:
        boxes: (n, 4), left, top, right and bottom edge in pixels of the scene; int.
        footprints: (n, 4, 2), corners on the map, counter-clockwise, in the units of `crs`.
        vectors: (n, D), float32.
        crs: Coordinate reference system of the footprints, or None.
    """

    boxes: np.ndarray
    footprints: np.ndarray
    vectors: np.ndarray
    crs: CRS | None


def write_geoparquet(
    path: Path, chips: Chips, *, dtype: str, product: str, date: str | None, model: str, tags: Mapping[str, str]
) -> None:
    """Write one row per chip.

    The columns are `unique_id`, `embedding`, `timestamp`, `product_id`, `grid_cell`, `grid_row_u`, `grid_col_r`,
    `geometry` (WGS84), `centre_lat`, `centre_lon`, `utm_footprint` (WKT in the scene's own reference system),
    `utm_crs`, `pixel_bbox`, and `bbox`, the covering of `geometry`. With int8 there is `embedding_scale` too: the
    embedding is its product with the integers. Columns that depend on a reference system are null if the scene has
    none.

    Args:
        path: Destination. An existing file is replaced when the new one is complete.
        chips: The chips.
        dtype: Type of the stored vectors: "float32", "float16" or "int8".
        product: Name of the scene, for `product_id`.
        date: Date of the scene, ISO 8601, or None.
        model: Name of the weights, for `unique_id`.
        tags: Further metadata of the file.
    """
    count, moment = len(chips.boxes), timestamp(date)
    outlines = _wkt(chips.footprints)
    kinds, shapes, edges = _geographic(chips)
    longitudes, latitudes = _centres(chips)
    cells = [None if np.isnan(x) else find_cell(y, x) for x, y in zip(longitudes, latitudes)]
    georeferenced = chips.crs is not None
    columns = {
        "unique_id": pa.array(
            [
                hashlib.sha256(f"{model} {product} {moment} {box.tolist()} {outline}".encode()).hexdigest()
                for box, outline in zip(chips.boxes, outlines)
            ]
        ),
        **_embeddings(chips.vectors, dtype),
        "timestamp": pa.array([moment] * count, pa.timestamp("ms", "UTC")),
        "product_id": pa.array([product] * count, pa.string()),
        "grid_cell": pa.array([cell and cell.name for cell in cells], pa.string()),
        "grid_row_u": pa.array([cell and cell.row for cell in cells], pa.int32()),
        "grid_col_r": pa.array([cell and cell.column for cell in cells], pa.int32()),
        "geometry": pa.array(shapes, pa.binary()),
        "centre_lat": pa.array(latitudes, mask=np.isnan(latitudes)),
        "centre_lon": pa.array(longitudes, mask=np.isnan(longitudes)),
        "utm_footprint": pa.array(outlines if georeferenced else [None] * count, pa.string()),
        "utm_crs": pa.array([None if chips.crs is None else chips.crs.to_string()] * count, pa.string()),
        "pixel_bbox": pa.FixedSizeListArray.from_arrays(pa.array(chips.boxes.astype(np.int32).ravel()), 4),
        "bbox": pa.StructArray.from_arrays([pa.array(edge, mask=np.isnan(edge)) for edge in edges], EDGES),
    }
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": kinds,
        "orientation": "counterclockwise",
        "covering": {"bbox": {edge: ["bbox", edge] for edge in EDGES}},
    }
    if georeferenced:
        column["bbox"] = bounds_of(edges)
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo), **tags})
    with atomic_path(path) as scratch:
        pq.write_table(table, scratch, compression="zstd", row_group_size=ROW_GROUP, write_page_index=True)


def timestamp(date: str | None) -> datetime | None:
    """Return the time of a date in ISO 8601, in UTC unless it states a zone; None for any other text."""
    try:
        moment = datetime.fromisoformat(date or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def bounds_of(edges: np.ndarray) -> list[float]:
    """Return the bounds (west, south, east, north) of boxes.

    They are the shortest range of longitudes that holds all boxes. Across the antimeridian the western edge is the
    larger number, as in GeoJSON (RFC 7946, 5.2).

    Args:
        edges: (4, n), western, southern, eastern and northern edges in degrees.
    """
    (west, east), (south, north) = unroll(edges[0], edges[2], 360.0), edges[1::2]
    left, right = west.min(), east.max()
    if right - left >= 360:
        left, right = -180.0, 180.0
    elif right > 180:
        right -= 360
    return [float(left), float(south.min()), float(right), float(north.max())]


def geographic_rings(corners: np.ndarray, crs: CRS) -> list[np.ndarray]:
    """Return the outline of corners (n, 2) in WGS84, as closed rings; two across the antimeridian, as in GeoJSON."""
    outline = {"type": "Polygon", "coordinates": [np.vstack([corners, corners[:1]]).tolist()]}
    geometry = transform_geom(crs, WGS84, outline, antimeridian_cutting=True)
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [_counterclockwise(np.array(part[0])) for part in parts]  # the cut reverses the order


def _embeddings(vectors: np.ndarray, dtype: str) -> dict[str, pa.Array]:
    """Return the column of the vectors and, for integers, that of their scales."""
    scales: dict[str, pa.Array] = {}
    stored = vectors.astype(np.float32)
    if dtype == HALF:
        stored = to_half(vectors)
    elif dtype == "int8":
        stored, factors = quantize_rows(vectors)
        warn_of_coarse_steps(least_cosine(vectors, stored * factors[:, None]))
        scales = {"embedding_scale": pa.array(factors)}
    return {"embedding": pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), vectors.shape[1]), **scales}


def _geographic(chips: Chips) -> tuple[list[str], list[bytes | None], np.ndarray]:
    """Return the kinds of geometry, each footprint as well-known binary in WGS84, and its edges (4, n)."""
    count = len(chips.boxes)
    if chips.crs is None:
        return [], [None] * count, np.full((4, count), np.nan)
    moved = transform(chips.crs, WGS84, *(axis.ravel() for axis in np.moveaxis(chips.footprints, -1, 0)))
    rings = np.stack(moved, -1).reshape(count, 4, 2)
    edges = np.concatenate([rings.min(1).T, rings.max(1).T])
    shapes: list[bytes | None] = [_polygon(ring) for ring in rings]
    crossing = np.flatnonzero(edges[2] - edges[0] > 180)
    for number in crossing:  # the antimeridian, where GeoJSON and GeoParquet want two polygons
        bodies = [_polygon(ring[:-1]) for ring in geographic_rings(chips.footprints[number], chips.crs)]
        shapes[number] = struct.pack("<BII", 1, 6, len(bodies)) + b"".join(bodies)
        longitudes = rings[number, :, 0]
        edges[[0, 2], number] = longitudes[longitudes > 0].min(), longitudes[longitudes < 0].max()
    kinds = (["Polygon"] if len(crossing) < count else []) + (["MultiPolygon"] if len(crossing) else [])
    return kinds, shapes, edges


def _centres(chips: Chips) -> np.ndarray:
    """Return longitudes and latitudes (2, n); NaN without a reference system."""
    if chips.crs is None:
        return np.full((2, len(chips.boxes)), np.nan)
    return np.array(transform(chips.crs, WGS84, *chips.footprints.mean(1).T))


def _counterclockwise(ring: np.ndarray) -> np.ndarray:
    """Return a closed ring (n, 2) in counter-clockwise order, which GeoJSON and our tables demand."""
    x, y = ring.T
    return ring if x[:-1] @ y[1:] > x[1:] @ y[:-1] else ring[::-1]


def _polygon(corners: np.ndarray) -> bytes:
    """Return a ring of corners (n, 2) as well-known binary, little-endian."""
    ring = np.vstack([corners, corners[:1]]).astype("<f8")
    return struct.pack("<BIII", 1, 3, 1, len(ring)) + ring.tobytes()


def _wkt(footprints: np.ndarray) -> list[str]:
    rings = np.concatenate([footprints, footprints[:, :1]], 1).tolist()
    return [f"POLYGON (({', '.join(f'{x!r} {y!r}' for x, y in ring)}))" for ring in rings]
