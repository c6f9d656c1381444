"""fMoW-Sentinel (Cong et al., 2022): Sentinel-2 L1C images of the 62 functional classes of fMoW."""

import csv
import os
from pathlib import PurePosixPath

from datasets import ClassLabel, Dataset, Value

from ...modeling.bands import L1C_BANDS
from .columns import MultispectralImage
from .common import PathLike, build_dataset, class_number, find_folder, split_name


_CLASSES = """
airport airport_hangar airport_terminal amusement_park aquaculture archaeological_site barn border_checkpoint
burial_site car_dealership construction_site crop_field dam debris_or_rubble educational_institution
electric_substation factory_or_powerplant fire_station flooded_road fountain gas_station golf_course
ground_transportation_station helipad hospital impoverished_settlement interchange lake_or_pond lighthouse
military_facility multi-unit_residential nuclear_powerplant office_building oil_or_gas_facility park
parking_lot_or_garage place_of_worship police_station port prison race_track railway_bridge
recreational_facility road_bridge runway shipyard shopping_mall single-unit_residential smokestack solar_farm
space_facility stadium storage_tank surface_mine swimming_pool toll_booth tower tunnel_opening waste_disposal
water_treatment_facility wind_farm zoo
"""
FMOW_CLASSES = tuple(_CLASSES.split())

_FILES = {"train": "train", "validation": "val", "test": "test_gt"}
_COLUMNS = ("category", "location_id", "image_id")


def load_fmow_sentinel(root: PathLike, split: str = "train") -> Dataset:
    """List fMoW-Sentinel: `train.csv`, `val.csv`, `test_gt.csv` and `<split>/<category>/<category>_<location>/*.tif`.

    Rows hold `id`, `pixels` (13, H, W) of various sizes, `bands`, `label` and `date`. Listing neither opens the images
    nor checks that they exist.

    Args:
        root: Any ancestor of the CSV files and the images.
        split: "train", "validation" or "test".

    Raises:
        FileNotFoundError: If the CSV file or the images' folder is missing.
        ValueError: If the CSV file lacks a column or names an unknown category.
    """
    stem = _FILES.get(split_name(split) or "")
    if stem is None:
        raise ValueError(f"Expected `split` to be one of {', '.join(_FILES)}, got {split!r}.")
    table = find_folder(root, f"{stem}.csv") / f"{stem}.csv"
    numbers = {name: number for number, name in enumerate(FMOW_CLASSES)}
    relative, labels, dates = [], [], []
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            raise ValueError(
                f"{table}: expected columns {', '.join(_COLUMNS)}, found {', '.join(rows.fieldnames or ())}."
            )
        for line, row in enumerate(rows, start=2):
            labels.append(class_number(row["category"], numbers, table, f"line {line}"))
            relative.append(_image_path(row, stem))
            dates.append(row.get("timestamp"))
    if not relative:
        raise ValueError(f"{table}: expected a line for each image, found none.")
    folder = find_folder(root, str(PurePosixPath(relative[0]).parents[1]))
    bands = list(L1C_BANDS)
    return build_dataset(
        root,
        [PurePosixPath(path).stem for path in relative],
        MultispectralImage(bands, band_names=bands),
        [os.path.join(folder, path) for path in relative],
        label=(ClassLabel(names=list(FMOW_CLASSES)), labels),
        date=(Value("string"), dates),
    )


def _image_path(row: dict[str, str], split: str) -> str:
    """Return `<split>/<category>/<category>_<location>/<file>`, which the CSV files of some copies state."""
    if row.get("image_path"):
        return "/".join(row["image_path"].split("/")[-4:])
    location = f"{row['category']}_{row['location_id']}"
    return f"{split}/{row['category']}/{location}/{location}_{row['image_id']}.tif"
