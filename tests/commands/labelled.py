"""Small labelled data: crops of the embedded image, with classes by thresholds of its own spectral indices.

The labels are no ground truth: water where NDWI > 0 (McFeeters, 1996), vegetation where NDVI > 0.4 (Rouse et al.,
1974), else open ground. They can be learnt from the pixels, which is all that a test needs.
"""

from pathlib import Path

import numpy as np

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.modeling.rasters import Raster, read_raster, write_raster
from tests.data.files import write_image


CLASSES = ("water", "vegetation", "open ground")


def indices(pixels: np.ndarray, bands: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return NDWI and NDVI (H, W)."""
    green, red, infrared = (pixels[bands.index(name)].astype(np.float32) for name in ("B3", "B4", "B8"))
    return (green - infrared) / (green + infrared), (infrared - red) / (infrared + red)


def write_maps(folder: Path, corners: list[tuple[int, int]], size: int) -> None:
    """Write `images/<left>_<top>.tif` and `masks/<left>_<top>.png` of crops of the embedded image."""
    for left, top in corners:
        raster = read_raster(SAMPLE, window=(left, top, size, size))
        ndwi, ndvi = indices(raster.pixels, list(raster.band_names))
        labels = np.where(ndwi > 0, 0, np.where(ndvi > 0.4, 1, 2)).astype(np.uint8)
        write_crop(folder / "images" / f"{left}_{top}.tif", raster, raster.pixels)
        write_image(folder / "masks" / f"{left}_{top}.png", labels)


def write_classes(folder: Path, corners: list[tuple[int, int]], size: int) -> None:
    """Write `<class>/<left>_<top>.tif`: crops by the class of most of their pixels, water or vegetation."""
    for left, top in corners:
        raster = read_raster(SAMPLE, window=(left, top, size, size))
        ndwi, _ = indices(raster.pixels, list(raster.band_names))
        target = folder / ("water" if (ndwi > 0).mean() > 0.5 else "vegetation")
        write_crop(target / f"{left}_{top}.tif", raster, raster.pixels)


def write_values(folder: Path, corners: list[tuple[int, int]], size: int) -> dict[str, float]:
    """Write crops and `table.csv` with the mean reflectance of B8 in percent as the value of each; return these."""
    values = {}
    for left, top in corners:
        raster = read_raster(SAMPLE, window=(left, top, size, size))
        name = f"images/{left}_{top}.tif"
        values[name] = float(raster.pixels[list(raster.band_names).index("B8")].mean()) / 100
        write_crop(folder / name, raster, raster.pixels)
    rows = "".join(f"{name},{value}\n" for name, value in values.items())
    (folder / "table.csv").write_text(f"path,value\n{rows}")
    return values


def write_pair(folder: Path, corner: tuple[int, int], size: int) -> None:
    """Write a pair of dates: in the second, a square of the crop looks like water; `masks` tells where."""
    left, top = corner
    raster = read_raster(SAMPLE, window=(left, top, size, size))
    changed = np.zeros((size, size), np.uint8)
    changed[size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
    after = np.where(changed, raster.pixels.min((1, 2), keepdims=True), raster.pixels)
    for name, pixels in (("before", raster.pixels), ("after", after)):
        write_crop(folder / name / "a.tif", raster, pixels)
    write_image(folder / "masks" / "a.png", changed)


def write_crop(path: Path, raster: Raster, pixels: np.ndarray) -> None:
    """Write pixels with the names of the bands and the georeference of a raster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, pixels, crs=raster.crs, transform=raster.transform, band_names=raster.band_names)
