"""Cloud-optimised GeoTIFFs of any size, written part by part in little memory."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window

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
    """Write a compressed COG with overviews, and only a complete one.

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
        OSError: If it cannot be written; the destination is then as before.
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
    copy, temporary = scratch / f"{path.stem}.tif", f"{path}.{os.getpid()}.part"
    factors = [2**level for level in range(1, 32) if max(shape) > BLOCK * 2 ** (level - 1)]
    try:
        with rasterio.open(copy, "w", **profile) as dataset:
            for box, pixels in parts:
                window = Window(box.left, box.top, box.right - box.left, box.bottom - box.top)
                dataset.write(pixels.astype(profile["dtype"]), window=window)
            if descriptions is not None:
                dataset.descriptions = tuple(descriptions)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            dataset.update_tags(**(tags or {}))
        if factors:
            with rasterio.open(copy, "r+") as dataset:
                # Classes must not be averaged.
                dataset.build_overviews(factors, Resampling.mode if dtype == "uint8" else Resampling.average)
        # Not GDAL's COG driver: it lays bands side by side, and half floats at the edges then hold whatever was in
        # memory, so that no two files are the same.
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
        os.replace(temporary, path)
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        raise OSError(f"{path}: cannot be written ({error}).") from error
    finally:
        for file in (copy, temporary):
            if os.path.exists(file):
                os.remove(file)
