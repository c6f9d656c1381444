# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The grid on which bands are read. Files on other grids are warped onto it by geotransform, never stretched."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .bands import SENTINEL_2, Sensor
from .notices import warn
from .raster_files import OpenFile


try:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.enums import ColorInterp, MaskFlags, Resampling
    from rasterio.io import DatasetReader
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window
except ImportError:
    # `open_raster` raises an error that names the missing package.
    pass


METRES_PER_DEGREE = 111_320
USUAL_SAMPLING = (0.5, 2)
"""Size of a pixel on the ground in pixels of the sensor, between which a model is used without a warning."""

LARGEST_SIDE = 10**6
"""Largest number of pixels on a side of a grid: 10,000 km at 10 m."""
FINEST_RESAMPLING = 100
"""How many times finer than its source a grid may be."""


@dataclass(frozen=True)
class Grid:
    """The position of the pixels of an image on the ground."""

    crs: "CRS | None"
    transform: "Affine"
    height: int
    width: int

    @property
    def pixel_size(self) -> float:
        """Side of a pixel, in the units of the reference system."""
        return math.sqrt(abs(self.transform.determinant))

    def holds(self, dataset: "DatasetReader") -> bool:
        """Return whether a file has these pixels. Without a reference system only the size is compared."""
        if (dataset.height, dataset.width) != (self.height, self.width):
            return False
        if dataset.crs is None or self.crs is None:
            return True
        return dataset.crs == self.crs and dataset.transform.almost_equals(self.transform, 1e-3 * self.pixel_size)

    def part(self, window: "Window | Sequence[int] | None", out_shape: tuple[int, int] | None, name: str) -> "Part":
        """Return a window of the grid, to be read at the shape `out_shape`.

        Raises:
            ValueError: If the window leaves the grid.
        """
        numbers = window if window is not None else (0, 0, self.width, self.height)
        numbers = numbers.flatten() if isinstance(numbers, Window) else tuple(numbers)
        column, row, width, height = (int(number) for number in numbers)
        inside = min(column, row) >= 0 and column + width <= self.width and row + height <= self.height
        if (column, row, width, height) != numbers or width < 1 or height < 1 or not inside:
            raise ValueError(
                f"{name}: expected a window of whole pixels (column, row, width, height) within {self.width} x "
                f"{self.height} px, found {numbers}."
            )
        rows, columns = out_shape or (height, width)
        if rows < 1 or columns < 1:
            raise ValueError(f"{name}: expected a positive `out_shape` (height, width), found {out_shape}.")
        transform = resampled(self.transform, column, row, width / columns, height / rows)
        return Part(Window(column, row, width, height), Grid(self.crs, transform, rows, columns))


@dataclass(frozen=True)
class Part:
    """A window of a grid, and the grid of its pixels after decimation."""

    window: "Window"
    grid: Grid

    @property
    def is_decimated(self) -> bool:
        """Whether there are fewer or more pixels than in the window."""
        return (self.grid.height, self.grid.width) != (self.window.height, self.window.width)

    def strips(self, rows: int) -> "Iterator[tuple[slice, Part]]":
        """Yield strips of at most `rows` rows of the window, each after the slice of the part's rows that it fills."""
        down = self.window.height / self.grid.height
        step = max(1, int(rows / down))
        for top in range(0, self.grid.height, step):
            count = min(step, self.grid.height - top)
            window = Window(self.window.col_off, self.window.row_off + top * down, self.window.width, count * down)
            transform = resampled(self.grid.transform, 0, top)
            yield slice(top, top + count), Part(window, Grid(self.grid.crs, transform, count, self.grid.width))


def resampled(transform: "Affine", column: float, row: float, across: float = 1, down: float = 1) -> "Affine":
    """Return a transform with its origin at a pixel of another, and with pixels `across` and `down` times as large.

    The product is written out, because affine before version 3 multiplies with `*`, for which later releases warn.
    """
    a, b, c, d, e, f = transform[:6]
    return Affine(a * across, b * down, a * column + b * row + c, d * across, e * down, d * column + e * row + f)


def choose_grid(dataset: "DatasetReader", resolution: float | None, name: str, sensor: Sensor = SENTINEL_2) -> Grid:
    """Return the grid of a file; if it is in metres and `resolution` differs by 1 % or more, at that resolution.

    Warns if the ground sampling is far from the finest of the sensor.

    Raises:
        ValueError: If the resolution is not positive, or the geotransform is damaged.
    """
    grid = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
    _check_sides(grid, name)
    if resolution is not None and not 0 < resolution < math.inf:
        raise ValueError(f"{name}: expected a positive `resolution` in metres, or None, found {resolution}.")
    if not 0 < grid.pixel_size < math.inf:
        raise ValueError(f"{name}: expected a geotransform with an area, found {tuple(grid.transform)[:6]}.")
    if grid.crs is None and grid.transform.is_identity and dataset.gcps[0]:
        warn(
            f"{name}: has only ground control points, which are not used: read as a grid without a reference system. "
            "To georeference it, warp it first (`gdalwarp`)."
        )
    if grid.crs is None or not (grid.crs.is_projected or grid.crs.is_geographic):
        return grid
    if grid.crs.is_projected:
        sampling = grid.pixel_size * grid.crs.linear_units_factor[1]
    else:
        latitude = resampled(grid.transform, grid.width / 2, grid.height / 2).f
        sampling = grid.pixel_size * METRES_PER_DEGREE * math.sqrt(abs(math.cos(math.radians(latitude))))
    finest = sensor.resolution
    if finest and not USUAL_SAMPLING[0] <= sampling / finest <= USUAL_SAMPLING[1]:
        warn(f"{name}: one pixel is {sampling:.3g} m on the ground, far from the finest {finest:g} m of {sensor}.")
    if resolution is None or not grid.crs.is_projected or abs(resolution / sampling - 1) < 0.01:
        return grid
    factor = resolution / sampling
    if factor < 1 / FINEST_RESAMPLING:
        raise ValueError(
            f"{name}: one pixel is {sampling:.3g} m on the ground, and {resolution:.3g} m would be "
            f"{1 / factor:.0f} times finer: expected at most {FINEST_RESAMPLING} times. Pass a coarser `resolution`, "
            "or None for the source's own."
        )
    height, width = (math.ceil(size / factor - 1e-6) for size in (grid.height, grid.width))
    target = Grid(grid.crs, resampled(grid.transform, 0, 0, factor, factor), height, width)
    _check_sides(target, name)
    return target


def _check_sides(grid: Grid, name: str) -> None:
    if max(grid.height, grid.width) > LARGEST_SIDE:
        raise ValueError(
            f"{name}: a grid of {grid.width} x {grid.height} px, expected at most {LARGEST_SIDE:,} px a side. Cut the "
            "source, or pass a coarser `resolution`."
        )


def read_part(
    file: OpenFile,
    indexes: list[int],
    grid: Grid,
    part: Part,
    name: str,
    nodata: float | None = None,
    nearest: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read bands of one file.

    Args:
        file: The file.
        indexes: Indexes of the bands, from 1.
        grid: The whole output grid.
        part: The part of the grid to read.
        name: Name of the source in messages.
        nodata: Stored value that is not mixed into the pixels beside it.
        nearest: Whether to take the nearest value instead of interpolating.

    Returns:
        Values, interpolated where the grids differ (C, H, W); the nearest stored values (C, H, W), by which nodata is
        recognised; and which pixels the file covers and does not mask (H, W).
    """
    shape = (part.grid.height, part.grid.width)
    dataset, alpha = file.dataset, file.alpha
    if grid.holds(dataset):
        stored = dataset.read(indexes, window=part.window, out_shape=(len(indexes), *shape))
        covered = np.ones(shape, bool)
        flags = dataset.mask_flag_enums[indexes[0] - 1]
        if MaskFlags.per_dataset in flags and (alpha is not None or MaskFlags.alpha not in flags):
            covered = dataset.read_masks(indexes[0], window=part.window, out_shape=shape) > 0
        return stored, stored, covered
    if dataset.crs is None or grid.crs is None:
        raise ValueError(
            f"{name}: expected {grid.height} x {grid.width} px in each file without a reference system, found "
            f"{dataset.height} x {dataset.width} px in {os.path.basename(dataset.name)}: georeference the files."
        )
    if alpha is None and ColorInterp.alpha in dataset.colorinterp:
        raise ValueError(f"{name}: declares a named band to be transparency: only `resolution=None` reads it unharmed.")
    target = {"crs": grid.crs, "transform": part.grid.transform, "height": shape[0], "width": shape[1]}
    # Exact to well below a pixel; 0 would select no transformer at all.
    target["tolerance"] = 1e-6
    # With NaN no value is nodata. So the stored values are kept, and the alpha band shows the extent.
    extent = {"src_nodata": math.nan, "add_alpha": alpha is None}
    with WarpedVRT(dataset, resampling=Resampling.nearest, **target, **extent) as warped:
        stored = warped.read(indexes)
        covered = warped.read(alpha or warped.count) > 0
    if nearest or part.is_decimated:
        return stored, stored, covered
    coarser = abs(dataset.transform.determinant) > 0.99 * abs(grid.transform.determinant)
    resampling = Resampling.bilinear if coarser else Resampling.average
    # Files seldom declare the zeros outside the swath as nodata, but these must not be mixed into other pixels either.
    mixed = {"src_nodata": nodata or 0, "nodata": 0}
    with WarpedVRT(dataset, resampling=resampling, dtype="float32", **mixed, **target) as warped:
        return warped.read(indexes), stored, covered
