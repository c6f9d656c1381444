"""Uploads of the demo: of each file it keeps a window of at most 512 px a side, because visitors share a server."""

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from PIL import Image
from rasterio.windows import Window, transform

from ..inference.pictures import composite, to_image
from ..modeling.bands import L2A_BANDS, SENTINEL_2, Sensor
from ..modeling.rasters import Raster, open_raster, write_raster
from ..modeling.untrusted import Budget, NamedBytes
from .composites import find_composites


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
        size: (height, width) of the whole file on the grid of its sensor, 10 m for Sentinel-2.
        corner: Row and column of the window's first pixel in the file.
        overview: A composite of the whole file, at most 512 px on a side, if the window is a part of it; else None.
        warnings: Warnings of the reader and the processor.
        sensor: Sensor whose band names the window uses.
        match: As in `read_upload`.
        composites: The composites that it allows, as in `find_composites`.
    """

    name: str
    digest: str
    raster: Raster
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    overview: Image.Image | None = None
    warnings: tuple[str, ...] = ()
    sensor: Sensor = SENTINEL_2
    match: str | None = None
    composites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
    sensor: Sensor = SENTINEL_2,
    match: str | None = None,
) -> Upload:
    """Read a file, or a window of a large one.

    Args:
        path: The file. Only its name and its bytes are used: those of a GeoTIFF or JPEG 2000, which lead to no other
            file.
        corner: Row and column of the window's first pixel. A window that extends beyond the file is moved inside. By
            default the window is at the centre of the file.
        until: The deadline of reading.
        bands: Bands that the model uses, which decide which pixels are valid. Other bands are read too.
        sensor: Sensor that the model expects.
        match: `"wavelength"` reads files of another sensor, as in `open_raster`. None refuses them.

    Raises:
        ValueError: If the file is too large, too small, no multispectral raster or one of another sensor, or the
            deadline has passed.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20} MiB.")
    content = NamedBytes(path.read_bytes(), path.name)
    used = [band for band in bands if band in sensor.band_names]  # pseudo-bands are in no file
    budget = Budget(**LIMITS | {"bands": max(LIMITS["bands"], 2 * len(used))}, deadline=until)
    options: dict[str, Any] = {"resolution": sensor.resolution, "expected": sensor, "match": match, "budget": budget}
    with open_raster(content, used, skip_missing=True, beside=sensor.band_names, **options) as reader:
        size = (reader.height, reader.width)
        named = [band for band in reader.band_names or () if band in sensor.band_names]
        least = min(LEAST_BANDS, len(used))
        if len(named) < least:
            raise ValueError(
                f"{path.name}: expected a multispectral image, with at least {least} bands of {sensor} (all of them in "
                f"order, or with names in the file), found {listed(named) or 'none that is named'}."
            )
        if min(size) < LEAST_SIDE:
            raise ValueError(f"{path.name}: expected at least {LEAST_SIDE} × {LEAST_SIDE} px, found {size}.")
        height, width = (min(side, MAX_SIDE) for side in size)
        spare = (size[0] - height, size[1] - width)
        wanted = (spare[0] // 2, spare[1] // 2) if corner is None else corner
        row, column = (min(max(0, start), most) for start, most in zip(wanted, spare))
        raster = reader.read((column, row, width, height))
    composites = find_composites([band for band in used if band in named] or named, sensor)
    overview = None
    if size != (height, width):
        # A reader reads all of its bands: another one takes the overview's three.
        channels = next(iter(composites.values()))
        with open_raster(content, list(dict.fromkeys(channels)), **options) as reader:
            scale = MAX_SIDE / max(size)
            small = reader.read(out_shape=(max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        overview = to_image(composite(small.pixels, small.band_names or (), channels, valid=small.valid, sensor=sensor))
    if not raster.valid.any():
        raise ValueError(f"{path.name}: no pixel of the window at row {row}, column {column} has data.")
    digest = sha256(content).hexdigest()
    return Upload(path.name, digest, raster, size, (row, column), overview, (), sensor, match, composites)


def listed(names: Sequence[str], most: int = 13) -> str:
    """Return names separated by commas, at most the first `most`: an imaging spectrometer has hundreds of bands."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
