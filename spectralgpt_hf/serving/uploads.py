"""Uploads of the demo: of each file it keeps a window of at most 512 px a side, because visitors share a server."""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from affine import Affine
from PIL import Image
from rasterio.windows import Window, transform

from ..inference.pictures import TRUE_COLOUR, composite, to_image
from ..modeling.bands import BANDS, L2A_BANDS
from ..modeling.rasters import Raster, open_raster, write_raster
from ..modeling.untrusted import Budget


MAX_BYTES = 64 * 2**20
MAX_SIDE = 512
LEAST_BANDS, LEAST_SIDE = 6, 8
# Limits of reading an upload, and the seconds after which a request is refused.
LIMITS = {"pixels": 2**24, "bands": 64, "decoded_bytes": 2**30}
MAX_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Upload:
    """A window of a file.

    Attributes:
        name: Name of the file, without its folder.
        digest: SHA-256 of its bytes.
        raster: The window, at most 512 px on a side.
        size: (height, width) of the whole file on its 10 m grid.
        corner: Row and column of the window's first pixel in the file.
        overview: A composite of the whole file, at most 512 px on a side, if the window is a part of it; else None.
        warnings: Warnings of the reader and the processor.
    """

    name: str
    digest: str
    raster: Raster
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    overview: Image.Image | None = None
    warnings: tuple[str, ...] = ()

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.raster.band_names or ()

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the window."""
        return self.raster.valid.shape  # type: ignore[return-value]


def deadline() -> float:
    """Return the time by which a request that starts now must be answered, on the clock of `time.monotonic`."""
    return time.monotonic() + MAX_SECONDS


def check_time(until: float) -> None:
    """Raise a `ValueError` once a deadline has passed."""
    if time.monotonic() > until:
        raise ValueError(f"This took longer than {MAX_SECONDS:g} s, the limit of one request: try a smaller image.")


def read_upload(
    path: str | os.PathLike[str],
    corner: tuple[int, int] | None = None,
    until: float = math.inf,
    bands: Sequence[str] = L2A_BANDS,
) -> Upload:
    """Read a file, or a window of a large one.

    Args:
        path: The file. Only its bytes are used: those of a GeoTIFF or JPEG 2000, which lead to no other file.
        corner: Row and column of the window's first pixel. A window that extends beyond the file is moved inside. By
            default the window is at the centre of the file.
        until: The deadline of reading.
        bands: Bands that the model uses, which decide which pixels are valid. Other bands are read too.

    Raises:
        ValueError: If the file is too large, too small or no multispectral raster, or the deadline has passed.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20} MiB.")
    content = path.read_bytes()
    budget = Budget(**LIMITS, deadline=until)
    try:
        used = [band for band in bands if band in BANDS]
        with open_raster(content, used, skip_missing=True, beside=list(BANDS), budget=budget) as reader:
            size = (reader.height, reader.width)
            named = [band for band in reader.band_names or () if band in BANDS]
            if len(named) < LEAST_BANDS:
                raise ValueError(
                    f"{path.name}: expected a multispectral image, with at least {LEAST_BANDS} bands of Sentinel-2 "
                    f"(10, 12 or 13 bands, or names in the file), found {', '.join(named) or 'none that is named'}."
                )
            if min(size) < LEAST_SIDE:
                raise ValueError(f"{path.name}: expected at least {LEAST_SIDE} × {LEAST_SIDE} px, found {size}.")
            height, width = (min(side, MAX_SIDE) for side in size)
            spare = (size[0] - height, size[1] - width)
            wanted = (spare[0] // 2, spare[1] // 2) if corner is None else corner
            row, column = (min(max(0, start), most) for start, most in zip(wanted, spare))
            raster = reader.read((column, row, width, height))
        overview = None
        if size != (height, width):
            # A reader reads all of its bands: another one takes the overview's three.
            channels = [band for band in TRUE_COLOUR if band in named]
            channels = channels if len(channels) == 3 else named[:3]
            with open_raster(content, channels, budget=budget) as reader:
                scale = MAX_SIDE / max(size)
                small = reader.read(out_shape=(max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            overview = to_image(composite(small.pixels, channels, channels, valid=small.valid))
    except ValueError as error:
        raise ValueError(str(error).replace(f"raster of {len(content)} bytes", path.name)) from error
    if not raster.valid.any():
        raise ValueError(f"{path.name}: no pixel of the window at row {row}, column {column} has data.")
    return Upload(path.name, sha256(content).hexdigest(), raster, size, (row, column), overview)


def cut(raster: Raster, row: int, column: int, height: int, width: int) -> Raster:
    """Return a window of a raster, with its own georeference."""
    window = np.s_[row : row + height, column : column + width]
    moved = transform(Window(column, row, width, height), raster.transform)
    return replace(raster, pixels=raster.pixels[:, *window], valid=raster.valid[window], transform=moved)


def geotiff(
    pixels: np.ndarray,
    like: Raster,
    band_names: Sequence[str],
    nodata: float | None = None,
    cell: int = 1,
    **options: object,
) -> bytes:
    """Return a map (C, h, w) or (h, w) of the ground that `like` shows as the bytes of a GeoTIFF.

    Args:
        pixels: The map.
        like: Has the georeference.
        band_names: Descriptions of the map's bands.
        nodata: Value that means no data.
        cell: Side of the map's cells, in pixels of `like`.
        options: Further arguments of `write_raster`.
    """
    placed = (like.transform or Affine.identity()) * Affine.scale(cell)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "map.tif"
        write_raster(file, pixels, crs=like.crs, transform=placed, band_names=band_names, nodata=nodata, **options)  # type: ignore[arg-type]
        return file.read_bytes()
