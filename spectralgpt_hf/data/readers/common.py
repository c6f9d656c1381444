"""Helpers of all readers: find folders, read lists, hold out samples, and assemble rows."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from .columns import MultispectralImage, Reference, SegmentationMap


FeatureType: TypeAlias = Value | ClassLabel | List | MultispectralImage | SegmentationMap
PathLike: TypeAlias = str | os.PathLike[str]
Split: TypeAlias = PathLike | Sequence[str]
"""The name of a split, the path of a file that lists samples, or the names of the samples themselves."""

SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
"""The splits, and their names in files and folders."""


class Row(TypedDict, total=False):
    """A row of a reader. Pixels are (C, H, W), in digital numbers; a map is (H, W).

    A row for classification has `label` or `labels`, which are class numbers; a row for regression has floats there. A
    row of a scene has `segmentation_map`, `scene`, `site` and `window`, and for two dates `pixels_after`. A row of a
    series has `dates` in ISO 8601, and a column `pixels_2`, `pixels_3` and so on for each further date, which is None
    where another series is longer. A row of shards may have an `offset` of each band.
    """

    id: str
    pixels: np.ndarray
    pixels_after: np.ndarray
    dates: list[str]
    bands: list[str]
    offset: list[float] | float | None
    label: int | float
    labels: list[int] | list[float]
    segmentation_map: np.ndarray
    scene: str
    site: str
    window: list[int] | None


def dates_of(row: Row) -> list[np.ndarray]:
    """Return the pixels (C, H, W) of each date of a row."""
    return [value for name, value in row.items() if name.startswith("pixels") and value is not None]  # type: ignore[misc]


def series_columns(
    image: MultispectralImage, series: Sequence[Sequence[Reference]], dates: Sequence[Sequence[str]]
) -> dict[str, tuple[FeatureType, Sequence[object]]]:
    """Return the columns of rows of series: those of all dates but the first, and their dates.

    Args:
        image: Type of the images.
        series: References of the images of each series, one for each of its dates.
        dates: Dates of each series in ISO 8601.
    """
    columns: dict[str, tuple[FeatureType, Sequence[object]]] = {"dates": (List(Value("string")), dates)}
    for number in range(1, max(map(len, series))):
        later = [references[number] if number < len(references) else None for references in series]
        columns[f"pixels_{number + 1}"] = (image, later)
    return columns


def split_name(split: Split) -> str | None:
    """Return "train", "validation", "test" or "all" if `split` is one of their names, otherwise None."""
    if split == "all":
        return "all"
    return next((name for name, aliases in SPLITS.items() if split in aliases), None)


def read_names(split: Split) -> list[str]:
    """Return the names in a list, or in the first column of a text or CSV file without header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are no names.
    """
    if not isinstance(split, str | os.PathLike):
        names = list(split)
    elif os.path.isfile(split):
        lines = Path(split).read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
    else:
        raise FileNotFoundError(
            f"{os.fspath(split)}: expected one of {', '.join(SPLITS)}, all; a file that lists samples; or their names."
        )
    if not names:
        raise ValueError(f"{split}: expected names of samples, found none.")
    return names


def find_folder(root: PathLike, *patterns: str) -> Path:
    """Return `root` or the nearest folder below it that holds one of `patterns`.

    A folder with more than 256 subfolders is assumed to hold samples, and its subfolders are not searched.

    Args:
        root: Any ancestor of the folder.
        patterns: Paths of files or folders relative to the folder, with wildcards.

    Raises:
        FileNotFoundError: If there is no such folder, or no `root`.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: no such folder.")
    queue = deque([(Path(root), 0)])
    while queue:
        folder, depth = queue.popleft()
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return folder
        children = sorted(islice(_subfolders(folder), 257))
        if len(children) <= 256 and depth < 10:
            queue.extend((folder / name, depth + 1) for name in children)
    raise FileNotFoundError(f"{root}: expected {' or '.join(patterns)}, here or in a folder below, found none.")


def hold_out(names: Sequence[str], share: float, seed: int) -> set[str]:
    """Return a random share of names, the same on every machine. A smaller share is a subset of a larger one.

    Raises:
        ValueError: If `share` is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"Expected a share between 0 and 1, got {share}.")
    if share == 1:
        return set(names)
    return set(rank(names, seed)[: round(share * len(names))])


def rank(names: Sequence[str], seed: int) -> list[str]:
    """Return names in random order, by their hashes: the order is the same on every machine and in every version."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def class_number(name: str, numbers: Mapping[str, int], *source: object) -> int:
    """Return the number of a class, or raise a `ValueError` that names the source of the unknown label."""
    if name not in numbers:
        where = ", ".join(map(str, source))
        raise ValueError(f"{where}: unknown label {name!r}; expected one of {', '.join(numbers)}.")
    return numbers[name]


def build_dataset(
    root: PathLike,
    ids: Sequence[str],
    image: MultispectralImage,
    pixels: Sequence[str] | Sequence[Reference],
    **columns: tuple[FeatureType, Sequence[object]],
) -> Dataset:
    """Assemble rows of `id`, `pixels`, `bands` and further columns. No file is opened.

    Args:
        root: Folder of the dataset, for messages.
        ids: Names of the samples.
        image: Type of the column `pixels`.
        pixels: Paths or references of the images.
        columns: Type and values of each further column.

    Raises:
        ValueError: If there is no sample.
    """
    if not ids:
        raise ValueError(f"{root}: expected samples of this split, found none.")
    types: dict[str, FeatureType] = {"id": Value("string"), "pixels": image, "bands": List(Value("string"))}
    values = {"id": pa.array(ids), "pixels": pa.array(pixels), "bands": pa.repeat(pa.scalar(image.bands), len(ids))}
    for name, (column_type, column) in columns.items():
        types[name], values[name] = column_type, pa.array(column)
    return Dataset.from_dict(values, features=Features(types))


def _subfolders(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
