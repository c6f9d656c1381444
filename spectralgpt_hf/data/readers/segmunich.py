"""SegMunich (Hong et al., 2024): Sentinel-2 chips of Munich with maps of 13 land-cover classes."""

import csv
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from ...modeling.bands import SEGMUNICH_BANDS, resolve_bands
from ...modeling.geometry import IGNORE_INDEX
from .columns import MultispectralImage, SegmentationMap
from .common import PathLike, find_folder, hold_out, read_names, split_name
from .scene_crops import Scene, build_scene_dataset


# Code in the files and name of each class, in the order of the class numbers.
_CLASSES = (
    (0, "Background"),
    (21, "Arable land"),
    (22, "Permanent crops"),
    (23, "Pastures"),
    (31, "Forests"),
    (5, "Surface water"),
    (32, "Shrub"),
    (33, "Open spaces"),
    (41, "Wetlands"),
    (13, "Mine dump"),
    (14, "Artificial vegetation"),
    (11, "Urban fabric"),
    (12, "Buildings"),
)
SEGMUNICH_CLASSES = tuple(name for _, name in _CLASSES)

# Mirrors call the test split "val".
_FOLDERS = {"train": ("train",), "test": ("test", "val")}


def load_segmunich(
    root: PathLike,
    split: str = "train",
    *,
    band_names: Sequence[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """List SegMunich as unpacked from `TUM_128.zip`: `<root>/{train,test}/{img,label}/<id>.tif`.

    Rows hold `id`, `pixels` (10, 128, 128), `bands`, `segmentation_map` (128, 128) with classes 0 to 12, and the other
    columns of `build_scene_dataset`. Samples come from the lists `dataset/{train,test}.txt`, else from the columns `id`
    and `source` of a mirror's `dataset/metadata.csv`, else from the folders. Labels may be PNG files, and the test
    folder may be called `val`, as in mirrors.

    The published patches include about ten transformed copies of each patch. How these are named is not documented.
    This reader assumes that the copies of `<id>` are called `<id>_<transform>`, where the transform is one or more
    words such as rot90, rotate_180, flip, hflip, mirror, ud, lr, transpose or aug3. A patch and its copies count as one
    site, and whole sites are held out for validation.

    Args:
        root: Any ancestor of the `train` and `test` folders.
        split: "train", "validation" or "test". Validation is not published: it is held out of the training samples.
        band_names: Names of the files' ten bands, in order. By default B2 B3 B4 B5 B6 B7 B8 B8A B11 B12, as the
            authors answered when asked. Their paper lists B1 B2 B3 B4 B5 B6 B7 B8A B11 B12.
        validation_share: Share of the training sites to hold out, 0 to 1.
        seed: Seed of the choice of these sites.

    Raises:
        FileNotFoundError: If a folder or a listed sample is missing.
        ValueError: If `split` is unknown or no sample is found.
    """
    name = split_name(split)
    if name not in ("train", "validation", "test"):
        raise ValueError(f"Expected `split` to be train, validation or test, got {split!r}.")
    if band_names is None:
        warnings.warn(
            f"The band order of SegMunich is not documented. The reader assumes {', '.join(SEGMUNICH_BANDS)}, as the "
            "authors answered when asked; their paper states another order. Pass `band_names` to choose.",
            stacklevel=1,
        )
    names = list(resolve_bands(SEGMUNICH_BANDS if band_names is None else band_names))
    aliases = _FOLDERS["test" if name == "test" else "train"]
    folder = find_folder(root, *(f"{alias}/img" for alias in aliases))
    part = next(folder / alias for alias in aliases if (folder / alias / "img").is_dir())
    images, labels = (_files(part / kind) for kind in ("img", "label"))
    ids = _listed(folder / "dataset", aliases) or sorted(images)
    sites = {image: source_patch(image) for image in ids}
    held_out = hold_out(sorted(set(sites.values())), validation_share, seed) if name != "test" else set()
    scenes = [
        Scene(
            image,
            (_existing(images, image, part / "img"),),
            _existing(labels, image, part / "label"),
            # The same number may name another patch in the test folder.
            site=f"{part.name}/{sites[image]}" if name == "test" else sites[image],
        )
        for image in ids
        if name == "test" or (sites[image] in held_out) == (name == "validation")
    ]
    codes, numbers = [code for code, _ in _CLASSES], list(range(len(_CLASSES)))
    segmentation_map = SegmentationMap(
        list(SEGMUNICH_CLASSES), codes=[*codes, IGNORE_INDEX], labels=[*numbers, IGNORE_INDEX]
    )
    return build_scene_dataset(root, scenes, MultispectralImage(names, band_names=names), segmentation_map)


_TRANSFORM = re.compile(
    r"(?:[_.-]|(?<=\d))(?:rot(?:ate|ated|ation)?|[hv]?flip(?:ped)?|mirror(?:ed)?|transposed?|ud|lr|aug(?:ment(?:ed)?)?)"
    r"(?:[_.-]?(?:\d+|[hvxy]|ud|lr|horizontal|vertical|left|right))*$",
    re.IGNORECASE,
)


def source_patch(image: str) -> str:
    """Return the id of the patch of which an image is a transformed copy, or its own id; see `load_segmunich`."""
    while (found := _TRANSFORM.search(image)) and found.start() > 0:
        image = image[: found.start()]
    return image


def _files(folder: Path) -> dict[str, str]:
    """Return the images of a folder by their names without extension."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the images or label maps of SegMunich.")
    return {
        os.path.splitext(name)[0]: os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.lower().endswith((".tif", ".tiff", ".png"))
    }


def _existing(files: dict[str, str], image: str, folder: Path) -> str:
    if image not in files:
        raise FileNotFoundError(f"{folder / image}.tif: no such file, but the sample is listed.")
    return files[image]


def _listed(folder: Path, aliases: tuple[str, ...]) -> list[str]:
    """Return the ids of a split from a list or a table; an empty list if there is neither."""
    lists = [folder / f"{alias}.txt" for alias in aliases if (folder / f"{alias}.txt").is_file()]
    if lists:
        return [os.path.splitext(os.path.basename(name))[0] for name in read_names(lists[0])]
    if not (folder / "metadata.csv").is_file():
        return []
    with open(folder / "metadata.csv", newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"id", "source"} <= set(rows.fieldnames or ()):
            raise ValueError(
                f"{folder / 'metadata.csv'}: expected columns id and source, found {', '.join(rows.fieldnames or ())}."
            )
        return [row["id"] for row in rows if row["source"] in aliases]
