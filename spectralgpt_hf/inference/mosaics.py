"""One map of many: results of scenes of any UTM zones on one grid, blended where they overlap."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from ..files import locked
from ..modeling.tiling import Box
from .cogs import write_cog
from .destinations import check_destination, check_outputs
from .maps import MAP_NODATA, class_colours
from .quantization import HALF, to_half


BLOCK = 512
"""Cells on a side of what is blended at once."""

KEPT_TAGS = ("model", "weights", "classes", "normalization")


def write_mosaic(
    sources: Sequence[str | Path],
    destination: str | Path,
    crs: Any,
    resolution: float,
    *,
    overwrite: bool = False,
) -> Path:
    """Blend maps into one grid.

    Each map is warped to the grid (bilinear), and where several have data their values are averaged. The weights are
    those with which `predict_scene` blends its tiles, a raised cosine over the extent of each map: at its edge a map
    counts little. Class maps are blended as probabilities, of which the largest decides.

    Args:
        sources: Probabilities that `predict_scene` wrote (`NAME_probabilities.tif`), which become a class map, or
            maps of features of `embed_scene`, which become such a map.
        destination: GeoTIFF to write.
        crs: Coordinate reference system of the grid: anything that rasterio takes, such as "EPSG:3857".
        resolution: Side of its cells, in its units. Cells begin at multiples of it.
        overwrite: Whether to replace an existing file.

    Raises:
        ValueError: If there are no sources, they differ in bands or classes, lack a georeference, or nothing has data.
        FileExistsError: If the destination exists and `overwrite` is False.
        OSError: If it cannot be written.
    """
    path = check_destination(destination, (".tif", ".tiff"))
    if not sources:
        raise ValueError(f"{path}: expected at least one map to blend, found none.")
    if resolution <= 0:
        raise ValueError(f"`resolution`: expected a positive size of cells, got {resolution}.")
    try:
        target = CRS.from_user_input(crs)
    except rasterio.errors.CRSError as error:
        raise ValueError(f"`grid`: expected a coordinate reference system such as EPSG:3857, got {crs!r}.") from error
    with locked(path), TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as scratch:
        check_outputs([path], [str(source) for source in sources], overwrite)
        maps = [_Map.read(str(source), target) for source in sources]
        _check_alike(maps)
        bounds = np.array([one.bounds for one in maps])
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
        kept: dict[str, str] = {
            name: first.tags[name] for name in ("model", "weights", "classes", "normalization") if name in first.tags
        }
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


@dataclass(frozen=True)
class _Map:
    """A map to blend, which is open only while it is read: there may be thousands.

    Attributes:
        path: The file.
        count: Number of bands.
        shape: (height, width), in its own cells.
        crs, transform: Its own grid.
        bounds: On the mosaic.
        scales: Of its bands, (C,).
        tags: Of the file.
    """

    path: str
    count: int
    shape: tuple[int, int]
    crs: Any
    transform: Any
    bounds: tuple[float, float, float, float]
    scales: np.ndarray
    tags: dict[str, str]

    @classmethod
    def read(cls, path: str, target: Any) -> "_Map":
        with rasterio.open(path) as file:
            if file.crs is None:
                raise ValueError(f"{path}: expected a georeferenced map, found no coordinate reference system.")
            bounds = transform_bounds(file.crs, target, *file.bounds)
            scales = np.array(file.scales, np.float32)
            return cls(path, file.count, file.shape, file.crs, file.transform, bounds, scales, file.tags())

    @property
    def classes(self) -> dict[int, str]:
        """Codes and names of the classes whose probabilities it holds, in their order; none for a map of features."""
        classes = {int(code): str(name) for code, name in json.loads(self.tags.get("classes", "{}")).items()}
        return classes if len(classes) == self.count else {}

    def weights(self, crs: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the weight at points of the mosaic: 1 in the middle of the map, towards 0 at its edges."""
        moved = map(np.array, transform(crs, self.crs, x.ravel(), y.ravel()))
        positions = zip(_apply(~self.transform, *moved), self.shape[::-1])
        # Half a cell inwards, as of the cells of a tile: no weight is 0 where there is data.
        shares = [np.clip(position, 0.5, length - 0.5) / length for position, length in positions]
        return np.prod([np.sin(np.pi * share) ** 2 for share in shares], axis=0).reshape(x.shape)


def _check_alike(maps: Sequence[_Map]) -> None:
    first = maps[0]
    for other in maps:
        if (other.count, other.tags.get("weights")) != (first.count, first.tags.get("weights")):
            raise ValueError(f"{other.path}: expected a map of the model of {first.path}, found one of another model.")


def _blend(maps: Sequence[_Map], crs: Any, grid: Any, shape: tuple[int, int]) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield the boxes of the mosaic that some map reaches, and their content."""
    bounds = np.array([one.bounds for one in maps])
    for top in range(0, shape[0], BLOCK):
        for left in range(0, shape[1], BLOCK):
            box = Box(left, top, min(left + BLOCK, shape[1]), min(top + BLOCK, shape[0]))
            west, north = _apply(grid, box.left, box.top)
            east, south = _apply(grid, box.right, box.bottom)
            near = (bounds[:, 0] < east) & (bounds[:, 2] > west) & (bounds[:, 1] < north) & (bounds[:, 3] > south)
            pixels = _blend_box([maps[number] for number in np.flatnonzero(near).tolist()], box, crs, grid)
            if pixels is not None:
                yield box, pixels


def _blend_box(maps: Sequence[_Map], box: Box, crs: Any, grid: Any) -> np.ndarray | None:
    """Return the content of a box; None where no map has data."""
    if not maps:
        return None
    shape = (box.bottom - box.top, box.right - box.left)
    corner = from_origin(*_apply(grid, box.left, box.top), grid.a, -grid.e)
    columns, rows = np.meshgrid(np.arange(box.left, box.right) + 0.5, np.arange(box.top, box.bottom) + 0.5)
    x, y = _apply(grid, columns, rows)
    total, weights = np.zeros((maps[0].count, *shape), np.float32), np.zeros(shape, np.float32)
    for one in maps:
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


def _apply(transform: Any, columns: Any, rows: Any) -> tuple[Any, Any]:
    """Return map coordinates; written out, since releases of affine differ in the operator for products."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f
