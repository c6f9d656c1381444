"""Blend maps of scenes from any UTM zones into one map on one grid."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from ..files import locked
from ..modeling.post_processing import class_colours
from ..modeling.tiling import Box
from .cogs import write_cog
from .destinations import check_destination, check_outputs
from .longitudes import unroll
from .maps import MAP_NODATA
from .quantization import HALF, to_half
from .vectors import WGS84


BLOCK = 512
"""Largest height and width in cells of the part that is blended at once."""

BLOCK_VALUES = 2**24
"""Largest number of values in this part, over all bands: 64 MiB in float32."""

EDGE_POINTS = 21
"""Points of each edge of a map whose positions in the mosaic are computed."""

Coordinate = TypeVar("Coordinate", float, np.ndarray)

KEPT_TAGS = ("model", "weights", "classes", "normalization")


def write_mosaic(
    sources: Sequence[str | Path],
    destination: str | Path,
    crs: CRS | str | int,
    resolution: float,
    *,
    overwrite: bool = False,
) -> Path:
    """Blend maps into one map.

    Each map is warped to the common grid (bilinear), and the values of maps that overlap are averaged. The weights are
    those with which `predict_scene` blends its tiles: a raised cosine over the extent of each map, which is small at
    its edges. Class maps are blended as probabilities, and the class with the largest one is written.

    Args:
        sources: Probabilities from `predict_scene` (`NAME_probabilities.tif`), which become a class map, or maps of
            features from `embed_scene`, which become a map of features.
        destination: GeoTIFF to write.
        crs: Coordinate reference system of the grid in any form that rasterio accepts, such as "EPSG:3857". Where its
            x is proportional to the longitude, maps on both sides of the antimeridian lie side by side, and x goes on
            beyond the end of the system (181 degrees).
        resolution: Size of the cells in units of `crs`. The edges of cells are multiples of it.
        overwrite: Whether to replace an existing file.

    Raises:
        ValueError: If there are no sources, if they are of different models, lack a georeference, or have no data.
        FileExistsError: If the destination exists and `overwrite` is False.
        OSError: If the destination cannot be written.
    """
    path = check_destination(destination, (".tif", ".tiff"))
    if not sources:
        raise ValueError(f"{path}: expected at least one map to blend, found none.")
    target = check_grid(crs, resolution)
    with locked(path), TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as scratch:
        check_outputs([path], [str(source) for source in sources], overwrite)
        turn = _turn(target)
        maps = [_Map.read(str(source), target, turn) for source in sources]
        _check_alike(maps)
        bounds = np.array([one.bounds for one in maps])
        if turn:
            bounds[:, 0], bounds[:, 2] = unroll(bounds[:, 0], bounds[:, 2], turn)
            maps = [replace(one, bounds=(*box,), shift=box[0] - one.bounds[0]) for one, box in zip(maps, bounds)]
        left, bottom = (math.floor(edge / resolution) * resolution for edge in bounds[:, :2].min(0))
        right, top = (math.ceil(edge / resolution) * resolution for edge in bounds[:, 2:].max(0))
        shape = (round((top - bottom) / resolution), round((right - left) / resolution))
        grid = from_origin(left, top, resolution, resolution)
        first, classes = maps[0], maps[0].classes
        written: dict[str, Any] = {"count": first.count, "dtype": HALF, "nodata": np.nan, "interleave": "pixel"}
        if classes:
            colours = {
                code: tuple(colour) for code, colour in zip(classes, class_colours([*classes.values()]).tolist())
            }
            written = {
                "count": 1,
                "dtype": "uint8",
                "nodata": MAP_NODATA,
                "descriptions": ["class"],
                "colormap": colours,
            }
        kept = {name: first.tags[name] for name in KEPT_TAGS if name in first.tags}
        write_cog(
            path,
            _blend(maps, target, grid, shape),
            Path(scratch),
            shape=shape,
            crs=target,
            transform=grid,
            tags={**kept, "sources": json.dumps([Path(source).name for source in sources])},
            **written,
        )
    return path


def check_grid(crs: CRS | str | int, resolution: float) -> CRS:
    """Return the reference system of a mosaic; arguments as in `write_mosaic`.

    Raises:
        ValueError: If it is none, or the resolution is not positive.
    """
    if not resolution > 0:
        raise ValueError(f"`resolution`: expected a positive size of cells, got {resolution}.")
    try:
        return CRS.from_user_input(crs)
    except rasterio.errors.CRSError as error:
        raise ValueError(f"`grid`: expected a coordinate reference system such as EPSG:3857, got {crs!r}.") from error


@dataclass(frozen=True)
class _Map:
    """A map to blend. It is open only while it is read, because there may be thousands.

    Attributes:
        path: The file.
        count: Number of bands.
        shape: (height, width), in cells of its own grid.
        crs, transform: Its own grid.
        bounds: Its bounds in the mosaic.
        shift: Number of whole turns around the Earth, in units of x, by which the bounds are shifted to the east.
        scales: Scale of each band, (C,).
        tags: Tags of the file.
    """

    path: str
    count: int
    shape: tuple[int, int]
    crs: CRS
    transform: Affine
    bounds: tuple[float, float, float, float]
    scales: np.ndarray
    tags: dict[str, str]
    shift: float = 0.0

    @classmethod
    def read(cls, path: str, target: CRS, turn: float) -> "_Map":
        with rasterio.open(path) as file:
            if file.crs is None:
                raise ValueError(f"{path}: expected a georeferenced map, found no coordinate reference system.")
            left, bottom, right, top = transform_bounds(file.crs, target, *file.bounds)
            if turn:
                along, ends = np.linspace(0, 1, EDGE_POINTS), np.zeros(EDGE_POINTS)
                columns = np.concatenate([along, ends + 1, along[::-1], ends]) * file.width
                rows = np.concatenate([ends, along, ends + 1, along[::-1]]) * file.height
                x = np.unwrap(transform(file.crs, target, *_apply(file.transform, columns, rows))[0], period=turn)
                left, right = x.min(), x.max()
            bounds = (left, bottom, right, top)
            scales = np.array(file.scales, np.float32)
            return cls(path, file.count, file.shape, file.crs, file.transform, bounds, scales, file.tags())

    @property
    def classes(self) -> dict[int, str]:
        """Codes and names of the classes whose probabilities the map holds, in order; empty for a map of features."""
        classes = {int(code): str(name) for code, name in json.loads(self.tags.get("classes", "{}")).items()}
        return classes if len(classes) == self.count else {}

    def weights(self, crs: CRS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the weight at points of the mosaic, from 1 in the middle of the map to almost 0 at its edges."""
        moved = map(np.array, transform(crs, self.crs, x.ravel() - self.shift, y.ravel()))
        positions = zip(_apply(~self.transform, *moved), self.shape[::-1])
        # Positions are at least half a cell from the edge, as cells of a tile are, so that no weight is 0.
        shares = [np.clip(position, 0.5, length - 0.5) / length for position, length in positions]
        return np.prod([np.sin(np.pi * share) ** 2 for share in shares], axis=0).reshape(x.shape)


def _turn(crs: CRS) -> float:
    """Return the width of a map of the whole Earth if x is proportional to the longitude, else 0."""
    longitudes = np.arange(-180.0, 181.0)
    try:
        x = [transform(WGS84, crs, longitudes, np.full_like(longitudes, latitude))[0] for latitude in (0.0, 60.0)]
    except rasterio._err.CPLE_BaseError:  # far from its centre, a projection may have no x
        return 0.0
    with np.errstate(invalid="ignore"):  # or an infinite one
        steps = np.diff(x)
    width = float(np.median(steps[0])) * 360
    alike = np.isclose(steps * 360, width).sum(1) >= 359  # a central meridian other than 0 makes one step back
    return width if width > 0 and alike.all() else 0.0


def _check_alike(maps: Sequence[_Map]) -> None:
    first = maps[0]
    for other in maps:
        if (other.count, other.tags.get("weights")) != (first.count, first.tags.get("weights")):
            raise ValueError(f"{other.path}: expected a map of the model of {first.path}, found one of another model.")


def _blend(maps: Sequence[_Map], crs: CRS, grid: Affine, shape: tuple[int, int]) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield the boxes of the mosaic in which a map has data, and their pixels."""
    bounds = np.array([one.bounds for one in maps])
    side = min(BLOCK, math.isqrt(BLOCK_VALUES // maps[0].count))
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            box = Box(left, top, min(left + side, shape[1]), min(top + side, shape[0]))
            west, north = _apply(grid, box.left, box.top)
            east, south = _apply(grid, box.right, box.bottom)
            near = (bounds[:, 0] < east) & (bounds[:, 2] > west) & (bounds[:, 1] < north) & (bounds[:, 3] > south)
            pixels = _blend_box([maps[number] for number in np.flatnonzero(near).tolist()], box, crs, grid)
            if pixels is not None:
                yield box, pixels


def _blend_box(maps: Sequence[_Map], box: Box, crs: CRS, grid: Affine) -> np.ndarray | None:
    """Return the pixels of a box, or None if no map has data in it."""
    if not maps:
        return None
    shape = (box.bottom - box.top, box.right - box.left)
    left, top = _apply(grid, box.left, box.top)
    columns, rows = np.meshgrid(np.arange(box.left, box.right) + 0.5, np.arange(box.top, box.bottom) + 0.5)
    x, y = _apply(grid, columns, rows)
    total, weights = np.zeros((maps[0].count, *shape), np.float32), np.zeros(shape, np.float32)
    for one in maps:
        corner = from_origin(left - one.shift, top, grid.a, -grid.e)
        options = {"crs": crs, "transform": corner, "width": shape[1], "height": shape[0]}
        with rasterio.open(one.path) as file, WarpedVRT(file, resampling=Resampling.bilinear, **options) as warped:
            values, valid = warped.read().astype(np.float32), warped.dataset_mask() > 0
        valid &= np.isfinite(values).all(0)
        weight = np.where(valid, one.weights(crs, x, y), 0).astype(np.float32)
        total += np.where(valid, values * one.scales[:, None, None], np.float32(0)) * weight
        weights += weight
    if not weights.any():
        return None
    blended = total / np.where(weights > 0, weights, 1)
    if maps[0].classes:
        codes = np.array([*maps[0].classes], np.uint8)
        return np.where(weights > 0, codes[blended.argmax(0)], np.uint8(MAP_NODATA))[None]
    return to_half(np.where(weights > 0, blended, np.float32(np.nan)))


def _apply(transform: Affine, columns: Coordinate, rows: Coordinate) -> tuple[Coordinate, Coordinate]:
    """Return map coordinates. The product is written out, because releases of affine differ in its operator."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f
