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
"""Write a georeferenced raster, read it back, and only then rename it to its destination."""

import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np


try:
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS
except ImportError:
    rasterio = None


BLOCK = 512
"""Largest side of a block of the files that are written, in pixels."""


def write_raster(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    crs: "CRS | str | None",
    transform: "Affine | None",
    band_names: Sequence[str] | None = None,
    nodata: float | None = None,
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write a compressed, tiled, cloud-optimised GeoTIFF with overviews.

    Args:
        path: Destination. An existing file is replaced when the new one is complete.
        pixels: (C, H, W) or (H, W).
        crs: Coordinate reference system, or None.
        transform: Affine transform from pixel to map coordinates, or None.
        band_names: Description of each band, such as its name.
        nodata: Value that means no data.
        colormap: Colour (red, green, blue[, alpha]) of each value of a single 8-bit band.
        tags: Metadata.

    Raises:
        ValueError: If the arguments do not fit each other or the type cannot be stored.
        OSError: If the file cannot be written or read back. The destination is then not changed.
    """
    if rasterio is None:
        raise ImportError("Writing files needs rasterio: `pip install rasterio`.")
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"{path}: expected pixels (C, H, W) or (H, W), none of them 0, found {pixels.shape}.")
    if band_names is not None and len(band_names) != len(pixels):
        raise ValueError(f"{path}: got {len(band_names)} band names for {len(pixels)} bands.")
    if not rasterio.dtypes.check_dtype(pixels.dtype.name):
        raise ValueError(f"{path}: a GeoTIFF cannot hold {pixels.dtype.name} values.")
    if nodata is not None and not rasterio.dtypes.in_dtype_range(nodata, pixels.dtype.name):
        raise ValueError(f"{path}: expected a nodata value that {pixels.dtype.name} can hold, found {nodata}.")
    profile = {
        "driver": "COG",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype.name,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        # A whole block is compressed, and read back, however little of it the image fills. Sides are multiples of 16.
        "blocksize": min(BLOCK, math.ceil(max(pixels.shape[1:]) / 16) * 16),
        "compress": "deflate",
        "predictor": "yes",
        "bigtiff": "if_safer",
        # Class numbers must not be averaged.
        "overview_resampling": "mode" if len(pixels) == 1 and pixels.dtype.kind in "ui" else "average",
    }
    with replaced_when_readable(path) as temporary:
        with rasterio.open(temporary, "w", **profile) as dataset:
            dataset.write(pixels)
            dataset.descriptions = tuple(band_names) if band_names is not None else (None,) * len(pixels)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            dataset.update_tags(**(tags or {}))
        _compare(temporary, pixels)


@contextmanager
def replaced_when_readable(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a temporary name beside `path` for a raster, read the raster back, and rename it to `path`.

    Raises:
        OSError: If it cannot be written or read back, for example on a full disk. `path` is then not changed, and the
            temporary file is removed.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # GDAL writes the last blocks when it closes a file, and rasterio ignores errors of that.
        read_back(temporary)
        os.replace(temporary, path)
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError) as error:
        raise OSError(
            f"{path}: cannot be written ({error.__cause__ or error}). Check that its folder exists and may be written "
            "to, and that the disk has space. An earlier file was not changed."
        ) from error
    finally:
        # GDAL's temporary files have this name with a suffix.
        for leftover in glob.glob(f"{glob.escape(temporary)}*"):
            os.remove(leftover)


def read_back(path: str | os.PathLike[str]) -> None:
    """Read every block of a raster and of its overviews.

    Raises:
        OSError: If a block cannot be read.
    """
    try:
        with rasterio.open(path) as dataset:
            levels = range(len(dataset.overviews(1)))
            for _, window in dataset.block_windows():
                dataset.read(window=window)
        for level in levels:
            with rasterio.open(path, OVERVIEW_LEVEL=level) as dataset:
                for _, window in dataset.block_windows():
                    dataset.read(window=window)
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        raise OSError(f"{path}: is incomplete or damaged ({error.__cause__ or error}).") from error


def _compare(path: str, pixels: np.ndarray) -> None:
    with rasterio.open(path) as dataset:
        for _, window in dataset.block_windows():
            if not np.array_equal(dataset.read(window=window), pixels[:, *window.toslices()], equal_nan=True):
                raise OSError(f"{path}: holds other values than those that were written.")
