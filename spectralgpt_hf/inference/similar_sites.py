"""Find similar sites: tables of embeddings are read batch by batch and compared with the vector of one site."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ..files import write_json
from .areas import Polygons


SITE = ("unique_id", "product_id", "timestamp", "grid_cell", "centre_lon", "centre_lat", "geometry", "bbox")
BATCH = 8192
"""Number of rows that are compared at once. Vectors of 768 numbers take 24 MiB."""


class _Row(TypedDict):
    """The columns of a table that a search reads, apart from the embedding and the bounds."""

    unique_id: str
    product_id: str
    timestamp: datetime | None
    grid_cell: str
    centre_lon: float
    centre_lat: float
    geometry: bytes


@dataclass(frozen=True)
class Site:
    """A chip of a table of embeddings.

    Attributes:
        similarity: Cosine of the angle between its vector and that of the query, -1 to 1.
        unique_id, product_id, timestamp, grid_cell: Columns of the table, as `write_geoparquet` describes them.
        longitude, latitude: Its centre, in degrees.
        geometry: Its footprint, as GeoJSON in WGS84.
        file: Path of the table.
    """

    similarity: float
    unique_id: str
    product_id: str
    timestamp: datetime | None
    grid_cell: str
    longitude: float
    latitude: float
    geometry: Polygons
    file: str


def search_embeddings(
    embeddings: str | Path | Sequence[str | Path], like: tuple[float, float], top: int = 10
) -> tuple[Site, list[Site]]:
    """Find the sites whose embeddings are most similar to that of one site.

    Args:
        embeddings: GeoParquet files of `embed_scene`, folders of them, or patterns. Their embeddings may be stored in
            different types, but must be of one model.
        like: Longitude and latitude of the site, in degrees (WGS84). If several chips contain it, the latest is taken,
            and among those of one date the one whose centre is nearest.
        top: Number of results.

    Returns:
        The chip that contains `like`, and at most `top` other chips, the most similar first. Other chips that contain
        `like` are left out.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If no chip contains the point, the tables are of different models, or a file is no table of
            embeddings.
    """
    if top < 1:
        raise ValueError(f"`top`: expected a positive number, got {top}.")
    files = _find_tables([embeddings] if isinstance(embeddings, str | Path) else embeddings)
    query, site = _find_site(files, like)
    query = query / max(float(np.linalg.norm(query)), 1e-30)
    best: list[tuple[float, str, _Row]] = []
    for file, batch in _batches(files, ~_holds(like)):
        vectors = _vectors(batch)
        lengths = np.linalg.norm(vectors, axis=1)
        similarities = vectors @ query / np.where(lengths > 0, lengths, 1)
        for row in np.argsort(-similarities, kind="stable")[:top]:
            best.append((float(similarities[row]), file, batch.slice(row, 1).to_pylist()[0]))
        best = sorted(best, key=lambda found: -found[0])[:top]
    return site, [_site(*found) for found in best]


def write_geojson(path: str | Path, sites: Sequence[Site]) -> None:
    """Write sites as a GeoJSON FeatureCollection, one feature per site, in the given order."""
    features = [
        {
            "type": "Feature",
            "id": site.unique_id,
            "geometry": site.geometry,
            "properties": {
                "rank": rank,
                "similarity": round(site.similarity, 6),
                "product_id": site.product_id,
                "timestamp": site.timestamp and site.timestamp.isoformat(),
                "grid_cell": site.grid_cell,
                "file": site.file,
            },
        }
        for rank, site in enumerate(sites, 1)
    ]
    write_json(path, {"type": "FeatureCollection", "features": features})


def _find_tables(patterns: Sequence[str | Path]) -> list[str]:
    """Return the tables, which must be of one model. In folders, Parquet files without embeddings are skipped."""
    models: dict[bytes, str] = {}
    files = []
    for pattern in map(str, patterns):
        inside = Path(pattern).is_dir()
        for file in sorted(map(str, Path(pattern).rglob("*.parquet")) if inside else glob(pattern, recursive=True)):
            try:
                schema = pq.read_schema(file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{file}: expected a table of embeddings, GeoParquet ({error}).") from error
            missing = [name for name in ("embedding", *SITE) if name not in schema.names]
            if missing and inside:
                continue
            if missing:
                raise ValueError(f"{file}: expected a table of embeddings, found no column {', '.join(missing)}.")
            models[(schema.metadata or {}).get(b"weights", b"")] = file
            files.append(file)
    if not files:
        raise FileNotFoundError(f"{', '.join(map(str, patterns))}: found no table of embeddings (.parquet).")
    if len(models) > 1:
        raise ValueError(
            f"Expected embeddings of one model, found {len(models)} models, in {' and '.join(models.values())}."
        )
    return files


def _find_site(files: Sequence[str], like: tuple[float, float]) -> tuple[np.ndarray, Site]:
    """Return the vector of the chip that contains a point, and the chip."""
    found = []
    for file, batch in _batches(files, _holds(like)):
        for vector, row in zip(_vectors(batch), batch.to_pylist()):
            distance = np.hypot(row["centre_lon"] - like[0], row["centre_lat"] - like[1])
            moment = row["timestamp"].timestamp() if row["timestamp"] else 0.0
            found.append(((-moment, distance), vector, _site(1.0, file, row)))
    if not found:
        raise ValueError(f"Expected a site within the embeddings, found no chip that contains {like[0]}, {like[1]}.")
    _, vector, site = min(found, key=lambda entry: entry[0])
    return vector, site


def _holds(point: tuple[float, float]) -> ds.Expression:
    """Return the condition that the bounds of a chip contain a point."""
    west, south, east, north = (ds.field("bbox", edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
    longitude, latitude = point
    beside = (west <= longitude) & (longitude <= east)
    across = (west > east) & ((west <= longitude) | (longitude <= east))
    return (south <= latitude) & (latitude <= north) & (beside | across)


def _batches(files: Sequence[str], condition: ds.Expression) -> Iterator[tuple[str, pa.RecordBatch]]:
    for file in files:
        scan = ds.dataset(file).to_batches(columns=["embedding", *SITE], filter=condition, batch_size=BATCH)
        yield from ((file, batch) for batch in scan if batch.num_rows)


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    """Return the embeddings of a batch (n, D), float32. Embeddings stored as integers lack their scale."""
    flat = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(batch.num_rows, -1)


def _site(similarity: float, file: str, row: _Row) -> Site:
    return Site(
        similarity,
        row["unique_id"],
        row["product_id"],
        row["timestamp"],
        row["grid_cell"],
        row["centre_lon"],
        row["centre_lat"],
        _geometry(row["geometry"]),
        file,
    )


def _geometry(binary: bytes) -> Polygons:
    """Return the GeoJSON of a polygon or multipolygon in the well-known binary that `write_geoparquet` writes."""
    kind, count = struct.unpack_from("<xII", binary)
    if kind == 3:
        points = np.frombuffer(binary, "<f8", offset=13).reshape(-1, 2)
        return {"type": "Polygon", "coordinates": [points.tolist()]}
    size = [9]
    for _ in range(count):
        size.append(size[-1] + 13 + 16 * struct.unpack_from("<I", binary, size[-1] + 9)[0])
    parts = [_geometry(binary[start:stop])["coordinates"] for start, stop in pairwise(size)]
    return {"type": "MultiPolygon", "coordinates": parts}
