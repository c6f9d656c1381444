"""EuroSAT, multispectral (Helber et al., 2019): 27,000 Sentinel-2 L1C images of ten land-use classes."""

import os
import re
from typing import Literal

from datasets import ClassLabel, Dataset

from ...modeling.bands import EUROSAT_FILE_BANDS
from .columns import MultispectralImage
from .common import SPLITS, PathLike, Split, build_dataset, class_number, find_folder, read_names, split_name


EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)


def load_eurosat(
    root: PathLike, split: Split = "train", *, partition: Literal["spatial", "random"] = "spatial"
) -> Dataset:
    """List EuroSAT-MS as unpacked from `EuroSATallBands.zip`.

    Rows hold `id`, `pixels` (13, 64, 64) uint16, `bands` (B8A last, as stored) and `label`.

    Args:
        root: Any ancestor of the ten class folders.
        split: "train", "validation" or "test" by the published lists `eurosat[-spatial]-{train,val,test}.txt`, which
            must be below `root`; "all"; the path of another list, such as SpectralGPT's; or names of images.
        partition: "spatial" splits by longitude. "random" puts neighbouring images into different splits, which makes
            scores too high.

    Raises:
        FileNotFoundError: If the class folders, the list or a listed image are missing.
        ValueError: If a listed image has an unknown label.
    """
    if partition not in ("spatial", "random"):
        raise ValueError(f"Expected `partition` to be 'spatial' or 'random', got {partition!r}.")
    folder = find_folder(root, *(f"{name}/{name}_*.tif" for name in EUROSAT_CLASSES))
    present = _list_images(folder)
    published = split_name(split)
    if published == "all":
        ids = sorted(present)
    elif published is None:
        ids = [_stem(line) for line in read_names(split)]
    else:
        file = f"eurosat-{'spatial-' if partition == 'spatial' else ''}{SPLITS[published][0]}.txt"
        ids = [_stem(line) for line in read_names(find_folder(root, file) / file)]
    numbers = {name: number for number, name in enumerate(EUROSAT_CLASSES)}
    classes = [image.rpartition("_")[0] for image in ids]
    labels = [class_number(found, numbers, image) for found, image in zip(classes, ids)]
    paths = [os.path.join(folder, found, f"{image}.tif") for found, image in zip(classes, ids)]
    missing = [path for path, image in zip(paths, ids) if image not in present]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such image, and {len(missing) - 1} more of the split are missing.")
    bands = list(EUROSAT_FILE_BANDS)
    image_type = MultispectralImage(bands, band_names=bands)
    return build_dataset(root, ids, image_type, paths, label=(ClassLabel(names=list(EUROSAT_CLASSES)), labels))


def _list_images(folder: PathLike) -> set[str]:
    """Return the names of the images without extension. Other files in the folders of some copies are left out."""
    files = (file for name in EUROSAT_CLASSES for file in _files(os.path.join(folder, name)))
    pattern = re.compile(rf"({'|'.join(EUROSAT_CLASSES)})_\d+\.tif")
    return {_stem(file) for file in files if pattern.fullmatch(file)}


def _files(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _stem(line: str) -> str:
    """Return the image of a line, which may be the RGB copy (`Forest_1.jpg`) or a path (`tif/Forest/Forest_1.tif`)."""
    return os.path.splitext(os.path.basename(line))[0]
