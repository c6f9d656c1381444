"""What the demo keeps of an uploaded file: a window of its pixels, small enough for a page that many people share."""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.windows import Window, transform

from ..modeling.bands import BANDS, L2A_BANDS
from ..modeling.rasters import Raster, open_raster, write_raster
from ..modeling.untrusted import Budget


MAX_BYTES = 64 * 2**20
MAX_SIDE = 512
LEAST_BANDS = 6
# What reading an upload may cost, and the seconds after which a request is refused.
LIMITS = {"pixels": 2**24, "bands": 64, "decoded_bytes": 2**30}
MAX_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Upload:
    """A window of a file.

    Attributes:
        name: Of the file, without its folder.
        raster: The window: at most 512 px a side, and whole tiles.
        size: (height, width) of the whole file on its 10 m grid.
        warnings: What the reader and the processor warned of.
    """

    name: str
    raster: Raster
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.raster.bands or ()

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the window."""
        return self.raster.valid.shape  # type: ignore[return-value]

    @property
    def notice(self) -> str:
        """What of the file is used, where that is not all."""
        if self.size == self.shape:
            return ""
        return (
            f"The file has {self.size[0]} × {self.size[1]} px. Its central {self.shape[0]} × {self.shape[1]} px are "
            f"used: whole tiles, at most {MAX_SIDE} px a side. The command spectralgpt predict maps whole scenes."
        )


def deadline() -> float:
    """Return until when a request that starts now must be answered, on the clock of `time.monotonic`."""
    return time.monotonic() + MAX_SECONDS


def check_time(until: float) -> None:
    """Raise a `ValueError` once a deadline has passed."""
    if time.monotonic() > until:
        raise ValueError(f"This took longer than {MAX_SECONDS:g} s, the limit of one request: try a smaller image.")


def read_upload(
    path: str | os.PathLike[str],
    tile_size: int,
    patch_size: int = 8,
    until: float = math.inf,
    bands: Sequence[str] = L2A_BANDS,
) -> Upload:
    """Read the centre of a file.

    Args:
        path: The file. Only its bytes are used: those of a GeoTIFF or JPEG 2000, which lead to no other file.
        tile_size: Height and width of the model's images, in pixels.
        patch_size: Those of its tokens, of which smaller images are made.
        until: The deadline of reading.
        bands: Those that the model uses, which decide which pixels are valid. The others are read too.

    Raises:
        ValueError: If it is too large, no multispectral raster, or too small, or the deadline has passed.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20} MiB.")
    content = path.read_bytes()
    try:
        used, budget = [band for band in bands if band in BANDS], Budget(**LIMITS, deadline=until)
        with open_raster(content, used, skip_missing=True, beside=list(BANDS), budget=budget) as reader:
            size = (reader.height, reader.width)
            named = [band for band in reader.bands or () if band in BANDS]
            if len(named) < LEAST_BANDS:
                raise ValueError(
                    f"{path.name}: expected a multispectral image, with at least {LEAST_BANDS} bands of Sentinel-2 "
                    f"(10, 12 or 13 bands, or names in the file), found {', '.join(named) or 'none that is named'}."
                )
            height, width = (_whole(side, tile_size, patch_size) for side in size)
            if 0 in (height, width):
                raise ValueError(f"{path.name}: expected at least {patch_size} × {patch_size} px, found {size}.")
            raster = reader.read(((size[1] - width) // 2, (size[0] - height) // 2, width, height))
    except ValueError as error:
        raise ValueError(str(error).replace(f"raster of {len(content)} bytes", path.name)) from error
    if not raster.valid.any():
        raise ValueError(f"{path.name}: no pixel of the central {height} × {width} px has data.")
    return Upload(path.name, raster, size)


def cut(raster: Raster, row: int, column: int, height: int, width: int) -> Raster:
    """Return a window of a raster, with its own georeference."""
    place = np.s_[row : row + height, column : column + width]
    moved = transform(Window(column, row, width, height), raster.transform)
    return replace(raster, pixels=raster.pixels[:, *place], valid=raster.valid[place], transform=moved)


def geotiff(
    pixels: np.ndarray, like: Raster, bands: Sequence[str], nodata: float | None = None, **options: object
) -> bytes:
    """Return a map (C, h, w) or (h, w) of the ground that `like` shows as the bytes of a GeoTIFF."""
    scale = like.valid.shape[0] / pixels.shape[-2]
    a, b, c, d, e, f = like.transform[:6]
    placed = Affine(a * scale, b * scale, c, d * scale, e * scale, f)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "map.tif"
        write_raster(file, pixels, crs=like.crs, transform=placed, bands=bands, nodata=nodata, **options)  # type: ignore[arg-type]
        return file.read_bytes()


def _whole(side: int, tile_size: int, patch_size: int) -> int:
    unit = tile_size if side >= tile_size else patch_size
    return min(side, MAX_SIDE) // unit * unit
