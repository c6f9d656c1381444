"""Cloud-optimised GeoTIFFs of any size, written part by part in little memory, and read back before they count."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window

from ..files import atomic_path, writing_error
from ..modeling.tiling import Box


BLOCK = 512
"""Pixels on a side of a block."""


def write_cog(
    path: Path,
    parts: Iterable[tuple[Box, np.ndarray]],
    scratch: Path,
    *,
    count: int,
    shape: tuple[int, int],
    dtype: str,
    crs: Any,
    transform: Any,
    nodata: float,
    descriptions: Sequence[str] | None = None,
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write a compressed COG with overviews, and replace the destination only by one that holds what was written.

    GDAL reports some failed writes only when it closes a file, where rasterio ignores them. So every block of the new
    file is read back, and its valid pixels are compared with those that were written.

    Args:
        path: Destination; an existing file is replaced once the new one is complete.
        parts: Pixels (C, height, width) and where they belong. Whatever they leave out is nodata.
        scratch: Folder for an uncompressed copy, of which the COG is made.
        count: Number of bands.
        shape: (height, width) of the file.
        dtype: "uint8", "float32" or "float16".
        crs: Coordinate reference system, or None.
        transform: From pixel to map coordinates.
        nodata: Value that means no data.
        descriptions: Of each band.
        colormap: Colour (red, green, blue) of each value of a single 8-bit band.
        tags: Metadata.

    Raises:
        OSError: If it cannot be written, such as on a full disk; the destination is then as before.
        ValueError: If no pixel is valid.
    """
    half = {"NBITS": 16} if dtype == "float16" else {}
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": shape[0],
        "width": shape[1],
        "dtype": "float32" if half else dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        "interleave": "band",
        "bigtiff": "if_safer",
        **half,
    }
    copy, written = scratch / f"{path.stem}.tif", np.zeros(2, np.uint64)
    factors = [2**level for level in range(1, 32) if max(shape) > BLOCK * 2 ** (level - 1)]
    try:
        with rasterio.open(copy, "w", **profile) as dataset:
            for box, pixels in parts:
                stored = pixels.astype(profile["dtype"])
                written += _checksum(stored, nodata)
                dataset.write(stored, window=Window(box.left, box.top, box.right - box.left, box.bottom - box.top))
            if descriptions is not None:
                dataset.descriptions = tuple(descriptions)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            dataset.update_tags(**(tags or {}))
        if not written[0]:
            raise ValueError(f"{path}: nothing to write: no pixel of the area has data.")
        if factors:
            with rasterio.open(copy, "r+") as dataset:
                # Classes must not be averaged.
                dataset.build_overviews(factors, Resampling.mode if dtype == "uint8" else Resampling.average)
        # Not GDAL's COG driver: it lays bands side by side, and half floats at the edges then hold whatever was in
        # memory, so that no two files are the same.
        with atomic_path(path) as temporary:
            rasterio.shutil.copy(
                copy,
                temporary,
                driver="GTiff",
                copy_src_overviews="YES",
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                interleave="band",
                compress="deflate",
                predictor=2 if dtype == "uint8" else 3,
                bigtiff="if_safer",
                **half,
            )
            found = _read_back(temporary, len(factors), nodata)
            if (found != written).any():
                raise OSError(f"{written[0]} valid pixels were written, {found[0]} were read back")
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError) as error:
        raise writing_error(path, error) from error
    finally:
        copy.unlink(missing_ok=True)


def _checksum(pixels: np.ndarray, nodata: float) -> np.ndarray:
    """Return the number of valid pixels, and the sum of their bits: it does not depend on the order of the parts."""
    valid = ~np.isnan(pixels) if np.isnan(nodata) else pixels != nodata
    bits = pixels[valid].view(f"u{pixels.itemsize}").sum(dtype=np.uint64)
    return np.array([np.count_nonzero(valid), bits], np.uint64)


def _read_back(path: Path, overviews: int, nodata: float) -> np.ndarray:
    """Read every block of a file and its overviews, and return the checksum of the file."""
    found = np.zeros(2, np.uint64)
    for level in (None, *range(overviews)):
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
            for band in dataset.indexes:
                for _, window in dataset.block_windows(band):
                    pixels = dataset.read(band, window=window)
                    found += _checksum(pixels, nodata) if level is None else 0
    return found
