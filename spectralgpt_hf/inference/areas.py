"""Locate an area of interest, given as bounds or GeoJSON in any reference system, on the grid of a scene."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask, is_valid_geom
from rasterio.warp import transform_bounds, transform_geom

from ..modeling.rasters import RasterReader
from ..modeling.tiling import Box


STEPS = 100
"""Points on the longest edges of an area that is transformed to another reference system."""

CHUNK = 512
"""Rows of cells that are rasterised at once."""

Area: TypeAlias = Sequence[float] | Mapping[str, Any] | str | os.PathLike[str]
"""(left, bottom, right, top), or GeoJSON as a dict or a file."""

Coordinates: TypeAlias = list[Any]
"""Nested lists of points, as in GeoJSON: rings of a polygon, or polygons of several."""


class Polygons(TypedDict):
    """A GeoJSON geometry of type Polygon or MultiPolygon."""

    type: str
    coordinates: Coordinates


@dataclass(frozen=True)
class SceneArea:
    """An area on the grid of a scene.

    Attributes:
        box: The pixels that the area touches.
        shapes: Geometries in the scene's reference system; none if the area is the box.
        small: Geometries that are smaller than the cells of a result.
    """

    box: Box
    shapes: tuple[Polygons, ...] = ()
    small: tuple[Polygons, ...] = ()

    def on_cells(self, shape: tuple[int, int], transform: Affine) -> "SceneArea":
        """Return the area for a grid (height, width), with the geometries without a cell's centre in `small`."""
        small = [geometry for geometry in self.shapes if not _holds_a_centre(geometry, shape, transform)]
        large = [geometry for geometry in self.shapes if geometry not in small]
        return replace(self, shapes=tuple(large), small=tuple(small))

    def inside(self, shape: tuple[int, int], transform: Affine) -> np.ndarray | None:
        """Return whether each cell of a grid (height, width) is in the area; None if all are.

        A cell is in the area if its centre is, or if a `small` geometry touches it. Otherwise a field smaller than a
        cell would be lost.
        """
        if not self.shapes and not self.small:
            return None
        inside = np.zeros(shape, bool)
        for geometries, all_touched in ((self.shapes, False), (self.small, True)):
            if geometries:
                inside |= geometry_mask(geometries, shape, transform, all_touched, invert=True)
        return inside


def locate_area(area: Area | None, area_crs: CRS | str | int | None, reader: RasterReader) -> SceneArea:
    """Find an area of interest in a scene.

    Args:
        area: The area; None for the whole scene.
        area_crs: Reference system of `area`. By default that of the scene for bounds; for GeoJSON the one that it
            states, else longitude and latitude (RFC 7946).
        reader: The scene.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an area, or does not touch the scene.
    """
    if area is None and area_crs is not None:
        raise ValueError(f"`area_crs` is the reference system of an `area`, and there is none: got {area_crs}.")
    if area is None:
        return SceneArea(Box(0, 0, reader.width, reader.height))
    bounds = None if isinstance(area, str | os.PathLike | Mapping) else tuple(area)
    crs, shapes = (reader.crs, []) if bounds else _read_geojson(area)
    crs = crs if area_crs is None else _parse_crs(area_crs, "`area_crs`")
    if (crs is None) != (reader.crs is None):
        raise ValueError(f"{reader.name}: expected an area in pixels, because the scene has no reference system.")
    if bounds and (len(bounds) != 4 or not (bounds[0] < bounds[2] and bounds[1] < bounds[3])):
        raise ValueError(
            f"Expected an area as (left, bottom, right, top), found {bounds}. Across the antimeridian, add 360 to the "
            "longitude on the right."
        )
    _check_points(_corners_of(bounds, shapes), crs)
    if crs != reader.crs:
        # Straight edges become curves in another reference system, so points between the corners are transformed too.
        try:
            bounds = bounds and transform_bounds(crs, reader.crs, *bounds, densify_pts=STEPS)
            shapes = [
                transform_geom(
                    crs, reader.crs, Polygons(type=shape["type"], coordinates=_densified(shape["coordinates"]))
                )
                for shape in shapes
            ]
        except (RasterioError, CPLE_BaseError) as error:
            raise ValueError(
                f"{reader.name}: the area cannot be transformed from {crs} to {reader.crs}: {error}"
            ) from error
    x, y = _to_grid(_corners_of(bounds, shapes), reader.transform)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"{reader.name}: the area extends beyond the scene's reference system, {reader.crs}.")
    # Borders have rounding errors, which must not add another row of pixels.
    left, top = (max(0, math.floor(values.min() + 1e-3)) for values in (x, y))
    right, bottom = (
        min(length, math.ceil(values.max() - 1e-3)) for values, length in ((x, reader.width), (y, reader.height))
    )
    if left >= right or top >= bottom:
        raise ValueError(
            f"{reader.name}: the area does not touch the scene: it spans columns {x.min():.0f} to {x.max():.0f} and "
            f"rows {y.min():.0f} to {y.max():.0f} of {reader.width} x {reader.height} px. Check its reference system "
            f"({crs})."
        )
    return SceneArea(Box(left, top, right, bottom), tuple(shapes))


def _read_geojson(area: Any) -> tuple[CRS, list[Polygons]]:
    """Return the reference system and the polygons of GeoJSON, given as a dict or a file."""
    name = "the area"
    if not isinstance(area, Mapping):
        name = os.fspath(area)
        if not os.path.isfile(name):
            raise FileNotFoundError(f"{name}: no such GeoJSON file.")
        try:
            area = json.loads(Path(name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}: expected GeoJSON, but this is not JSON ({error}).") from error
    shapes = list(_geometries(area))
    if not shapes or not all(shape["coordinates"] and is_valid_geom(shape) for shape in shapes):
        raise ValueError(f"{name}: expected GeoJSON with at least one Polygon or MultiPolygon that has coordinates.")
    # The member `crs` is from the standard of 2008; QGIS and GDAL still write it.
    stated = area.get("crs")
    properties = stated.get("properties") if isinstance(stated, Mapping) else None
    found = properties.get("name") if isinstance(properties, Mapping) else stated
    return _parse_crs(found or "OGC:CRS84", f"{name}: `crs`"), shapes


def _parse_crs(value: object, name: str) -> CRS:
    """Return a coordinate reference system."""
    try:
        with rasterio.Env():  # keeps GDAL from printing the error
            return CRS.from_user_input(value)
    except (RasterioError, ValueError) as error:
        raise ValueError(
            f"{name}: expected a coordinate reference system such as EPSG:4326, found {value!r:.100}."
        ) from error


def _check_points(points: np.ndarray, crs: CRS | None) -> None:
    """Refuse points (n, 2) that are not finite, or not on Earth."""
    if not np.isfinite(points).all():
        raise ValueError("Expected an area with finite coordinates, found NaN or infinity.")
    if crs is not None and crs.is_geographic and abs(points[:, 1]).max() > 90:
        latitude = points[abs(points[:, 1]).argmax(), 1]
        raise ValueError(
            f"Expected an area as longitude and latitude ({crs}), found the latitude {latitude:g}: pass longitudes "
            "first, or the reference system of the coordinates (`area_crs`)."
        )


def _geometries(value: Any) -> Iterator[Polygons]:
    """Yield the polygons of a GeoJSON object."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in ("Polygon", "MultiPolygon"):
        yield {"type": kind, "coordinates": value.get("coordinates")}
    elif kind == "Feature":
        yield from _geometries(value.get("geometry"))
    elif kind in ("FeatureCollection", "GeometryCollection"):
        members = value.get("features" if kind == "FeatureCollection" else "geometries")
        for member in members if isinstance(members, Sequence) else ():
            yield from _geometries(member)


def _points(coordinates: Coordinates) -> np.ndarray:
    """Return the points (n, 2) of nested coordinates."""
    if isinstance(coordinates[0], int | float):
        return np.array([coordinates[:2]], float)
    return np.concatenate([_points(part) for part in coordinates])


def _densified(coordinates: Coordinates) -> Coordinates:
    """Return nested rings with further points on their long edges."""
    if not isinstance(coordinates[0][0], int | float):
        return [_densified(part) for part in coordinates]
    ring = np.array([point[:2] for point in coordinates], float)
    longest = max(np.ptp(ring, axis=0).max() / STEPS, 1e-12)
    counts = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(1) / longest)).astype(int)
    edges = [np.linspace(start, end, n, endpoint=False) for start, end, n in zip(ring, ring[1:], counts)]
    return np.concatenate([*edges, ring[-1:]]).tolist()


def _holds_a_centre(geometry: Polygons, shape: tuple[int, int], transform: Affine) -> bool:
    """Return whether a geometry contains the centre of a cell of a grid."""
    columns, rows = _to_grid(_points(geometry["coordinates"]), transform)
    left, right = (int(np.clip(edge, 0, shape[1])) for edge in (columns.min(), columns.max() + 1))
    top, bottom = (int(np.clip(edge, 0, shape[0])) for edge in (rows.min(), rows.max() + 1))
    for start in range(top, bottom, CHUNK):
        height = min(CHUNK, bottom - start)
        a, b, c, d, e, f = tuple(transform)[:6]
        window = Affine(a, b, a * left + b * start + c, d, e, d * left + e * start + f)
        if right > left and geometry_mask([geometry], (height, right - left), window, invert=True).any():
            return True
    return False


def _to_grid(points: np.ndarray, transform: Affine) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and rows of points (n, 2)."""
    a, b, c, d, e, f = tuple(~transform)[:6]
    return a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f


def _corners_of(bounds: Sequence[float] | None, shapes: Sequence[Polygons]) -> np.ndarray:
    """Return the corners (n, 2) of bounds, else those of geometries."""
    if not bounds:
        return np.concatenate([_points(shape["coordinates"]) for shape in shapes])
    left, bottom, right, top = bounds
    return np.array([(left, bottom), (left, top), (right, bottom), (right, top)], float)
