"""OSCD, the Onera Satellite Change Detection dataset (Daudt et al., 2018): 24 cities on two dates, and change maps."""

import os
from pathlib import Path

from datasets import Dataset

from ...modeling.bands import L1C_BANDS
from .columns import MultispectralImage, SegmentationMap
from .common import PathLike, Split, find_folder, split_name
from .scene_crops import Scene, build_scene_dataset


_TRAIN = "aguasclaras bercy bordeaux nantes paris rennes saclay_e abudhabi cupertino pisa beihai hongkong beirut mumbai"
_TEST = "brasilia montpellier norcia rio saclay_w valencia dubai lasvegas milano chongqing"
OSCD_TRAIN_CITIES = _TRAIN.split()
OSCD_TEST_CITIES = _TEST.split()
OSCD_VALIDATION_CITIES = ("paris", "cupertino")
"""Held out of the training cities: no validation split is published."""

OSCD_CLASSES = ("no change", "change")


def load_oscd(root: PathLike, split: Split = "train", *, size: int | None = 128, stride: int | None = None) -> Dataset:
    """List crops of OSCD from its three folders, "Onera Satellite Change Detection dataset - Images", "- Train Labels"
    and "- Test Labels", or from a copy with the maps beside the images.

    Rows hold `id`, `pixels` and `pixels_after` (13, `size`, `size`), `bands`, `segmentation_map` (`size`, `size`) with
    1 for change, and what `build_scene_dataset` adds; a scene is a city. Images come from `imgs_1_rect` and
    `imgs_2_rect`, whose bands share one grid. Where the second date is smaller, its edge is padded and masked.

    Args:
        root: Any ancestor of these folders.
        split: "train" (12 cities), "validation" (paris and cupertino), "test" (10), "all"; or names of cities, or the
            path of a list of them. `train.txt` and `test.txt` beside the images replace the published lists.
        size: Height and width of a crop, in pixels; None for whole cities.
        stride: Distance between crops, in pixels. By default half of `size`, an overlap of 50 %.

    Raises:
        FileNotFoundError: If a city's images or maps are missing.
        ValueError: If a file is damaged, or a map differs in size from the first date.
    """
    folder = find_folder(root, "*/imgs_1_rect")
    cities = _cities(folder, split)
    maps, codes = _maps(root, cities)
    scenes = [
        Scene(city, tuple(os.path.join(folder, city, f"imgs_{date}_rect") for date in (1, 2)), path)
        for city, path in zip(cities, maps)
    ]
    stride = stride if stride or not size else max(size // 2, 1)
    change = SegmentationMap(list(OSCD_CLASSES), codes, [0, 1])
    return build_scene_dataset(root, scenes, MultispectralImage(list(L1C_BANDS)), change, size, stride)


def _cities(folder: Path, split: Split) -> list[str]:
    name = split_name(split)
    if name is None:
        return _read_list(Path(split)) if isinstance(split, str | os.PathLike) else list(split)
    lists = ((folder / "train.txt", OSCD_TRAIN_CITIES), (folder / "test.txt", OSCD_TEST_CITIES))
    train, test = (_read_list(path) if path.is_file() else published for path, published in lists)
    held_out = [city for city in train if city in OSCD_VALIDATION_CITIES]
    kept = [city for city in train if city not in OSCD_VALIDATION_CITIES]
    return {"train": kept, "validation": held_out, "test": test, "all": train + test}[name]


def _read_list(path: Path) -> list[str]:
    """Read a list whose cities are in one line, separated by commas."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected train, validation, test or all, a file that lists cities, or their names."
        )
    return path.read_text(encoding="utf-8-sig").replace(",", " ").split()


def _maps(root: PathLike, cities: list[str]) -> tuple[list[str], list[int]]:
    """Return the path of each city's map, and the codes of no change and change, which differ between PNG and TIFF."""
    png, tif = "{0}/cm/cm.png", "{0}/cm/{0}-cm.tif"
    folders = [find_folder(root, png.format(city), tif.format(city)) for city in cities]
    for pattern, codes in ((png, [0, 255]), (tif, [1, 2])):
        paths = [os.path.join(folder, pattern.format(city)) for folder, city in zip(folders, cities)]
        if all(map(os.path.isfile, paths)):
            return paths, codes
    raise FileNotFoundError(
        f"{root}: expected cm.png for every city, or <city>-cm.tif for every city; found a mixture."
    )
