"""Write cloud-optimised GeoTIFFs of any size part by part in bounded memory, and read them back before renaming."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Interleaving, Resampling
from rasterio.windows import Window

from ..files import atomic_path, writing_error
from ..modeling.raster_writing import BLOCK
from ..modeling.tiling import Box


BLOCK_BYTES = 2**20
"""Approximate size of a block of all bands without compression, so that one short read gives all bands of a pixel."""


def write_cog(
    path: Path,
    parts: Iterable[tuple[Box, np.ndarray]],
    scratch: Path,
    *,
    count: int,
    shape: tuple[int, int],
    dtype: str,
    crs: CRS | None,
    transform: Affine,
    nodata: float,
    descriptions: Sequence[str] | None = None,
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
    interleave: str = "band",
    scales: np.ndarray | None = None,
) -> None:
    """Write a compressed COG with overviews, check its content, and rename it to the destination.

    GDAL reports some failed writes only when it closes a file, where rasterio ignores them. Therefore every block of
    the new file is read back, and its valid pixels are compared with those that were written.

    Args:
        path: Destination. An existing file is replaced when the new one is complete.
        parts: Boxes and their pixels (C, height, width). Pixels outside all boxes are nodata.
        scratch: Folder for an uncompressed copy, from which the COG is made.
        count: Number of bands.
        shape: (height, width) of the file.
        dtype: "uint8", "int8", "float32" or "float16".
        crs: Coordinate reference system, or None.
        transform: Affine transform from pixel to map coordinates.
        nodata: Value that means no data.
        descriptions: Description of each band.
        colormap: Colour (red, green, blue) of each value of a single 8-bit band.
        tags: Metadata.
        interleave: "band" lays bands one after the other, which suits maps; "pixel" keeps all bands of a pixel in one
            block.
        scales: Factor from the stored numbers to the values of each band, (C,).

    Raises:
        OSError: If the file cannot be written, for example on a full disk. The destination is then not changed.
        ValueError: If no pixel is valid.
    """
    half = {"NBITS": 16} if dtype == "float16" else {}
    stored_dtype = "float32" if half else dtype
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": shape[0],
        "width": shape[1],
        "dtype": stored_dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        "interleave": "band",
        "bigtiff": "if_safer",
        **half,
    }
    block = BLOCK
    if interleave == "pixel":
        side = math.isqrt(BLOCK_BYTES // (count * np.dtype(dtype).itemsize))
        block = min(BLOCK, max(16, side // 16 * 16))  # TIFF wants multiples of 16
    copy, written = scratch / f"{path.stem}.tif", np.zeros(2, np.uint64)
    factors = [2**level for level in range(1, 32) if max(shape) > BLOCK * 2 ** (level - 1)]
    try:
        with rasterio.open(copy, "w", **profile) as dataset:
            for box, pixels in parts:
                stored = pixels.astype(stored_dtype)
                written += _checksum(stored, nodata)
                dataset.write(stored, window=Window(box.left, box.top, box.right - box.left, box.bottom - box.top))
            if descriptions is not None:
                dataset.descriptions = tuple(descriptions)
            if scales is not None:
                dataset.scales = tuple(scales.tolist())
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            dataset.update_tags(**(tags or {}))
        if not written[0]:
            raise ValueError(f"{path}: nothing to write, because no pixel of the area has data.")
        if factors:
            with rasterio.open(copy, "r+") as dataset:
                # Class numbers must not be averaged.
                dataset.build_overviews(factors, Resampling.mode if dtype == "uint8" else Resampling.average)
        # GDAL's COG driver interleaves bands by pixel. Half floats at the edges then hold arbitrary memory, so that two
        # files of the same content differ.
        with atomic_path(path) as temporary:
            rasterio.shutil.copy(
                copy,
                temporary,
                driver="GTiff",
                copy_src_overviews="YES",
                tiled=True,
                blockxsize=block,
                blockysize=block,
                interleave=interleave,
                compress="deflate",
                predictor=3 if "float" in dtype else 2,
                bigtiff="if_safer",
                num_threads=1 if half else "all_cpus",  # with several, blocks of half floats hold arbitrary memory too
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
    """Return the number of valid pixels and the sum of their bits, which do not depend on the order of the parts."""
    valid = ~np.isnan(pixels) if np.isnan(nodata) else pixels != nodata
    bits = pixels[valid].view(f"u{pixels.itemsize}").sum(dtype=np.uint64)
    return np.array([np.count_nonzero(valid), bits], np.uint64)


def _read_back(path: Path, overviews: int, nodata: float) -> np.ndarray:
    """Read every block of a file and its overviews, and return the checksum of the full resolution."""
    found = np.zeros(2, np.uint64)
    for level in (None, *range(overviews)):
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
            together = dataset.interleaving == Interleaving.pixel
            for bands in [dataset.indexes] if together else dataset.indexes:
                for _, window in dataset.block_windows(1):
                    pixels = dataset.read(bands, window=window)
                    found += _checksum(pixels, nodata) if level is None else 0
    return found
