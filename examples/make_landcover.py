"""Train the embedded segmentation model of land cover, and score its recipe on sites that it has not seen.

    python examples/make_landcover.py CHIPS --work outputs/landcover

CHIPS holds `L1C/*.tif` (13 unnamed bands), `L2A/*.tif` (12) and `LULC/*.tif` of the same names: the examples of
TerraMesh (CC-BY-SA-4.0). Each site in turn is held out, in both levels, and mapped in both; a site of which no class
occurs elsewhere is skipped. The script prints accuracy and mean IoU, then trains on all sites. The result is `model`
in the folder `all`, which `examples/embed_head.py` embeds.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import jaccard_score

from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster, write_raster


CLASSES = "1=water,2=trees,3=flooded vegetation,4=crops,5=built,6=bare,7=snow,9=rangeland"
# Their values are 1000 too high, which nothing in the files says.
RAISED = {("L1C", "282D"), ("L1C", "433D"), ("L1C", "609U"), ("L2A", "433D")}
RECIPE = "--epochs 6 --freeze-encoder true --frozen-share 0 --train-split all --validation-split none --test-split none"


def spectralgpt(*arguments: object) -> None:
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_chips(source: Path, sites: Sequence[str], folder: Path) -> None:
    """Write images with names of their bands, and their maps."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    rows = [("path", "offset", "site")]
    for level, names in (("L1C", L1C_BANDS), ("L2A", L2A_BANDS)):
        for site in sites:
            name, chip = f"{site}_{level}.tif", read_raster(source / level / f"{site}.tif")
            labels = read_raster(source / "LULC" / f"{site}.tif").pixels[0]
            pixels = chip.pixels[[names.index(band) for band in L2A_BANDS]]
            write_raster(folder / "images" / name, pixels, band_names=L2A_BANDS, crs=chip.crs, transform=chip.transform)
            write_raster(folder / "masks" / name, labels, nodata=0, crs=chip.crs, transform=chip.transform)
            rows.append((f"images/{name}", str(offset_of(level, site)), site))
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def offset_of(level: str, site: str) -> int:
    return -1000 if (level, site.split("_")[0]) in RAISED else 0


def train(source: Path, sites: Sequence[str], folder: Path) -> Path:
    """Train on sites; return the folder of the model."""
    write_chips(source, sites, folder / "data")
    options = [*RECIPE.split(), "--early-stopping-patience", 0, "--classes", CLASSES]
    spectralgpt("train", "segment", folder / "data", "--output", folder, *options)
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chips", type=Path, help="Folder with L1C, L2A and LULC.")
    parser.add_argument("--work", type=Path, default=Path("outputs/landcover"), help="Empty folder to write to.")
    options = parser.parse_args()
    sites = sorted(path.stem for path in (options.chips / "L1C").glob("*.tif"))
    truth = {site: read_raster(options.chips / "LULC" / f"{site}.tif").pixels[0].ravel() for site in sites}
    scores = []
    for site in sites:
        others = [other for other in sites if other != site]
        if not set(truth[site]) & set(np.concatenate([truth[other] for other in others])):
            print(f"{site}: no other site holds its classes")
            continue
        model = train(options.chips, others, options.work / site)
        write_chips(options.chips, [site], options.work / site / "held_out")
        for level in ("L1C", "L2A"):
            image = options.work / site / "held_out" / "images" / f"{site}_{level}.tif"
            spectralgpt(
                "predict", model, image, options.work / "map.tif", "--overwrite", "--offset", offset_of(level, site)
            )
            found = read_raster(options.work / "map.tif").pixels[0].ravel()
            iou = jaccard_score(truth[site], found, labels=np.unique(truth[site]), average="macro")
            scores.append((float((found == truth[site]).mean()), float(iou)))
            print(f"{site} {level}: accuracy {scores[-1][0]:.3f}, mean IoU {scores[-1][1]:.3f}", flush=True)
    accuracy, iou = np.mean(scores, axis=0)
    print(f"mean of {len(scores)} maps: accuracy {accuracy:.3f}, mean IoU {iou:.3f}", flush=True)
    print(f"trained on all sites: {train(options.chips, sites, options.work / 'all')}")


if __name__ == "__main__":
    main()
