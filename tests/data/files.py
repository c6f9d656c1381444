"""Writes files as the datasets publish them: plain rasterio, so that the readers are tested against another writer."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine


UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 690000, 0, -10, 5340000)}


def write_image(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Write (C, H, W) or (H, W) in the format of the suffix; georeferenced if the profile has a transform."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    shape = {"driver": driver, "count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **shape, **profile) as file:
            file.write(pixels)
    return path


def numbered_bands(count: int, height: int, width: int | None = None, dtype: Any = np.uint16) -> np.ndarray:
    """Return pixels (C, H, W) that encode their band, row and column: 1000 x (band + 1) + row + column / 1000 px."""
    band, row, column = np.indices((count, height, width or height))
    return (1000 * (band + 1) + row + column).astype(dtype)
