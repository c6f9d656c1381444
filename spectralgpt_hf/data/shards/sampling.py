"""List the samples of datasets, folders and scenes that go into shards, and read them later in other processes."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine

from ...modeling.bands import SENTINEL_2, Sensor, resolve_bands
from ...modeling.matching import Matching
from ...modeling.products import holds_band_groups, read_folder
from ...modeling.radiometry import LARGEST_REFLECTANCE
from ...modeling.rasters import Raster, RasterReader, open_raster
from ..chip_grid import chip_corners
from ..readers.common import PathLike, hold_out, rank, split_name
from ..readers.registry import READERS
from .band_tables import ROW, SUFFIX, list_rows, unpacked
from .format import SPLIT_NAMES, LeftOutSample, ReportRecord, ShardRow, UnreadableFile


# Datasets of single images. The other datasets of the registry come with maps, which shards cannot hold.
DATASETS = ("fmow", "bigearthnet-v1", "bigearthnet-v2", "eurosat")


class Sample(NamedTuple):
    """The source of a row: a file or folder, or a window (left, top, width, height) of it, in pixels."""

    id: str
    path: str
    window: tuple[int, int, int, int] | None = None
    date: str | None = None
    label: int | None = None
    labels: Sequence[int] | None = None


@dataclass(frozen=True)
class Reading:
    """The options with which samples are read.

    Attributes:
        bands: Bands to read, in order; all by default.
        band_names: Names of the files' bands, in their order, if the files do not state them.
        resolution: Side of the pixels in metres, or None for the finest of each source.
        min_valid: Smallest share of pixels with data.
        scale: Factor from stored values to digital numbers: 10000 if the files hold reflectances.
        sensor: Sensor of the files.
    """

    bands: tuple[str, ...] | None = None
    band_names: tuple[str, ...] | None = None
    resolution: float | None = None
    min_valid: float = 0.0
    scale: float = 1.0
    sensor: Sensor = SENTINEL_2

    def open(self, path: str) -> RasterReader:
        """Open a source whose bands have names.

        Raises:
            FileNotFoundError, ValueError: As `open_raster`, and if the bands have no names.
        """
        reader = open_raster(path, self.bands, self.resolution, band_names=self.band_names, expected=self.sensor)
        if reader.band_names is None:
            reader.close()
            raise ValueError(f"{path}: expected bands with names, found none. Pass `band_names`, in order.")
        return reader


@dataclass
class Report:
    """Counts of samples that became no rows, and of values and warnings that a user should know of.

    Attributes:
        base: Folder that paths are relative to.
        unreadable: Files that could not be read.
        left_out: Samples with too little data.
        clipped_values: Number of values of valid pixels outside 0 ... 65535.
        warnings: Number of times that each warning was given.
    """

    base: str
    unreadable: list[UnreadableFile] = field(default_factory=list)
    left_out: list[LeftOutSample] = field(default_factory=list)
    clipped_values: int = 0
    warnings: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def watch(self, path: str, samples: Sequence[str] = ()) -> Iterator[None]:
        """Record the warnings and errors that reading a file causes, and suppress them."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            except (ValueError, OSError) as error:
                reason = str(error).replace(os.path.join(self.base, ""), "")
                name = os.path.relpath(path, self.base)
                self.unreadable.append({"file": name, "reason": reason, "samples": list(samples)})
        texts = (str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
        self.warnings.update(text.replace(f"{path}: ", "") for text in texts)

    def add(self, record: ReportRecord) -> None:
        """Add the report of another process."""
        self.unreadable += record["unreadable"]
        self.left_out += record["left_out"]
        self.clipped_values += record["clipped_values"]
        self.warnings.update(record["warnings"])

    def as_dict(self) -> ReportRecord:
        """Return the attributes to publish, without the folder."""
        return {
            "unreadable": self.unreadable,
            "left_out": self.left_out,
            "clipped_values": self.clipped_values,
            "warnings": dict(self.warnings),
        }


@dataclass
class Plan:
    """The samples of each split in the order of the shards, and the report of listing them."""

    splits: dict[str, list[Sample]]
    reading: Reading
    report: Report
    class_names: list[str] | None = None
    multi_label: bool = False


def plan_dataset(
    root: PathLike,
    dataset: str,
    splits: Sequence[str],
    bands: Sequence[str] | None,
    min_valid: float,
    **options: object,
) -> Plan:
    """List a published dataset in random order, because its own order is one class after another.

    Args:
        root: Any ancestor of its files.
        dataset: One of `DATASETS`.
        splits: Some of "train", "validation", "test"; "all" is stored as "train".
        bands, min_valid: As in `Reading`.
        options: Further arguments of the reader.

    Raises:
        FileNotFoundError, ValueError: As the reader, and if a split has another name.
    """
    planned: dict[str, list[Sample]] = {}
    for split in splits:
        name = split_name(split)
        if name is None:
            raise ValueError(f"Expected splits among {', '.join(SPLIT_NAMES)}, all; got {split!r}.")
        rows = READERS[dataset](root, split, **options)
        paths = [reference["path"] for reference in rows.data["pixels"].to_pylist()]
        columns = [key for key in ("date", "label", "labels") if key in rows.features]
        values = zip(*(rows.data[key].to_pylist() for key in columns)) if columns else iter([()] * len(rows))
        samples = (
            Sample(name, path, **dict(zip(columns, found))) for name, path, found in zip(rows["id"], paths, values)
        )
        planned["train" if name == "all" else name] = _shuffle(samples)
    image, label = rows.features["pixels"], rows.features.get("label", rows.features.get("labels"))
    band_names = image.band_names and tuple(image.band_names)
    reading = Reading(resolve_bands(bands or image.bands), band_names, None, min_valid)
    return Plan(
        planned,
        reading,
        Report(os.path.abspath(root)),
        label and getattr(label, "feature", label).names,
        "labels" in rows.features,
    )


def plan_files(
    sources: Sequence[PathLike],
    reading: Reading,
    *,
    are_folders: bool,
    size: int | None = None,
    stride: int | None = None,
    validation_share: float = 0.0,
    seed: int = 0,
) -> Plan:
    """List scenes, or the images below folders, as whole files or as chips.

    Whole files are listed in random order. Chips stay in the order of their scene, because neighbours share blocks of
    its file; training mixes them.

    Args:
        sources: Scenes that `open_raster` reads, or folders of images.
        reading: Options with which the samples are read.
        are_folders: Whether each source is a folder of images. Otherwise a source may be a scene.
        size, stride: Size of the chips and distance between them, as in `cut_chips`; None for whole files.
        validation_share: Share of the files to hold out, with at most this share of the samples. Chips of one file
            never end up in two splits.
        seed: Seed of the choice of validation files.

    Raises:
        FileNotFoundError: If there is no such folder, or no file in it.
        ValueError: If a file is given twice, or if there are only HDF5 files.
    """
    roots = [os.path.abspath(source) for source in sources]
    base = os.path.commonpath(roots if are_folders else [os.path.dirname(root) for root in roots])
    paths = [path for root in roots for path in _list_sources(root, are_folders, reading)]
    names = {os.path.basename(path): path for path in paths}
    if are_folders or len(names) < len(paths):
        names = {os.path.relpath(path, base): path for path in paths}
    if len(names) < len(paths):
        raise ValueError("Expected each source once, found some that are given twice or are inside others.")
    plan = Plan({"train": [], "validation": []}, reading, Report(base))
    samples = {name: _cut(name, path, plan, size, stride) for name, path in names.items()}
    held_out = _hold_out_files({name: len(chips) for name, chips in samples.items()}, validation_share, seed)
    for name, chips in samples.items():
        plan.splits["validation" if name in held_out else "train"] += chips
    if size is None:
        plan.splits = {split: _shuffle(samples) for split, samples in plan.splits.items()}
    plan.splits = {split: samples for split, samples in plan.splits.items() if samples}
    return plan


def read_rows(samples: Sequence[Sample], reading: Reading, report: Report) -> Iterator[ShardRow]:
    """Read samples. Consecutive samples of one source share its open files, and those of one row of chips one read.

    Args:
        samples: Samples to read, in order.
        reading: Options of reading.
        report: Report to which samples that become no rows are added.
    """
    for path, of_path in groupby(samples, key=lambda sample: sample.path):
        beside = [list(group) for _, group in groupby(of_path, key=lambda sample: sample.window and sample.window[1])]
        with ExitStack() as stack:
            reader = None
            with report.watch(path, [sample.id for group in beside for sample in group]):
                reader = stack.enter_context(reading.open(stack.enter_context(unpacked(path))))
            for group in beside if reader is not None else ():
                rows: list[ShardRow] = []
                with report.watch(path, [sample.id for sample in group]):
                    rows = _read_beside(group, reader, reading, report)
                yield from rows


_IMAGES, _ARRAYS, _HDF5 = (".tif", ".tiff"), (".npy",), (".h5", ".hdf5", ".he5", ".nc")
# Files beside the images of SEN12MS and DFC2020 (radar and land cover) and beside the bands of Major TOM.
_AUXILIARY = re.compile(r".*_(s1|lc|dfc)_\d+(_p\d+)?|cloud_mask", re.IGNORECASE)
_SUFFIX = re.compile(r"(\.SAFE)?(\.(tiff?|jp2|zip|npy|vrt|img|json))?$", re.IGNORECASE)


def _list_sources(root: str, are_folders: bool, reading: Reading) -> list[str]:
    """Return the images of a folder and its subfolders, or `root` itself if it is a scene.

    A SAFE product is an image, and so is a folder whose rasters are each named after another band (SSL4EO-S12, SeCo,
    Major TOM) or group of bands (SeasoNet). NumPy arrays are images if the caller names their bands, and so are rows of
    Parquet files if their columns are bands (Major TOM).

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If there are only HDF5 files.
    """
    if not are_folders and not os.path.isdir(root):
        if Path(root).suffix.lower() in _HDF5:
            raise ValueError(_REFUSED_HDF5.format(path=root))
        if root.endswith(SUFFIX) and not list_rows(root):
            raise ValueError(_REFUSED_TABLE.format(path=root))
        return list_rows(root) if root.endswith(SUFFIX) else [root]
    sensor = reading.sensor
    if not are_folders and _is_product(root, sensor):
        return [root]
    suffixes = _IMAGES if reading.band_names is None else _IMAGES + _ARRAYS
    found, others = [], []
    for folder, children, files in os.walk(root):
        children[:] = sorted(child for child in children if not child.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        images = [name for name in names if Path(name).suffix.lower() in suffixes]
        images = [name for name in images if not _AUXILIARY.fullmatch(Path(name).stem)]
        bands = [sensor.find(Path(name).stem) for name in images]
        is_sample = len(images) > 1 and None not in bands and _all_differ(bands)
        if folder.upper().endswith(".SAFE") or is_sample or holds_band_groups(images):
            found.append(folder)
            children.clear()
        else:
            found += [os.path.join(folder, name) for name in images]
            found += [row for name in names if name.endswith(SUFFIX) for row in list_rows(os.path.join(folder, name))]
            others += [os.path.join(folder, name) for name in names if Path(name).suffix.lower() in _HDF5 + _ARRAYS]
    if found:
        return found
    if others and Path(others[0]).suffix.lower() in _HDF5:
        raise ValueError(_REFUSED_HDF5.format(path=others[0]))
    hint = f" To read arrays such as {others[0]}, pass `band_names`." if others else ""
    raise FileNotFoundError(
        f"{root}: expected a folder with GeoTIFFs ({', '.join(_IMAGES)}), SAFE products or folders of one file per "
        f"band below, found none.{hint}"
    )


_REFUSED_HDF5 = (
    "{path}: HDF5 files, such as those of MMEarth, cannot be read, because they do not state which of their arrays are "
    "images. Convert each image to a GeoTIFF (with h5py and rasterio) or to an .npy file, or write the arrays with "
    "`spectralgpt_hf.data.shards.format.write_shards`."
)


_REFUSED_TABLE = (
    "{path}: expected a Parquet file whose columns are named after bands and hold GeoTIFFs (Major TOM), found no such "
    "column. Shards are read by `load_shards`."
)


def _is_product(folder: str, sensor: Sensor) -> bool:
    try:
        read_folder(folder, Matching(sensor))
    except ValueError:
        return False
    return True


def _all_differ(values: Sequence[object]) -> bool:
    return len(set(values)) == len(values)


def _cut(name: str, path: str, plan: Plan, size: int | None, stride: int | None) -> list[Sample]:
    stem, samples = _SUFFIX.sub("", name.replace(ROW, "_")), []
    if size is None:
        return [Sample(stem, path)]
    with plan.report.watch(path), unpacked(path) as source, plan.reading.open(source) as reader:
        width, height = min(size, reader.width), min(size, reader.height)
        for left, top in chip_corners(reader.height, reader.width, size, stride):
            samples.append(Sample(f"{stem}_{top}_{left}", path, (left, top, width, height)))
    plan.report.warnings.clear()  # reading the samples gives them again
    return samples


def _hold_out_files(sizes: Mapping[str, int], share: float, seed: int) -> set[str]:
    """Choose a share of the files that hold at most this share of the samples, since file sizes can differ a lot."""
    number, room = len(hold_out(list(sizes), share, seed)), round(share * sum(sizes.values()))
    chosen: set[str] = set()
    for name in rank(list(sizes), seed):
        if len(chosen) < number and 0 < sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return chosen


def _shuffle(samples: Iterable[Sample]) -> list[Sample]:
    by_id = {sample.id: sample for sample in samples}
    return [by_id[name] for name in rank(list(by_id), seed=0)]


def _read_beside(samples: Sequence[Sample], reader: RasterReader, reading: Reading, report: Report) -> list[ShardRow]:
    """Read samples of one source whose windows are all None, or all have the same top and height."""
    if samples[0].window is None:
        raster = reader.read()
        rasters = [raster] * len(samples)
    else:
        start, top, _, height = samples[0].window
        windows = [sample.window or (0, 0, 0, 0) for sample in samples]
        strip = reader.read((start, top, max(left + width for left, _, width, _ in windows) - start, height))
        rasters = [_crop(strip, left - start, width) for left, _, width, _ in windows]
    rows = (_row(sample, raster, reading, report) for sample, raster in zip(samples, rasters))
    return [row for row in rows if row is not None]


def _crop(strip: Raster, left: int, width: int) -> Raster:
    part = slice(left, left + width)
    transform = strip.transform * Affine.translation(left, 0)
    return replace(strip, pixels=strip.pixels[..., part], valid=strip.valid[:, part], transform=transform)


def _row(sample: Sample, raster: Raster, reading: Reading, report: Report) -> ShardRow | None:
    share = float(raster.valid.mean())
    if share == 0 or share < reading.min_valid:
        report.left_out.append({"id": sample.id, "valid": round(share, 4)})
        return None
    pixels, clipped = _stored(raster, reading.scale)
    report.clipped_values += clipped
    return ShardRow(
        sample.id,
        pixels,
        raster.band_names or (),
        None if raster.offsets is None else [offset * reading.scale for offset in raster.offsets],
        None if raster.crs is None else raster.crs.to_string(),
        None if raster.crs is None or raster.transform is None else tuple(raster.transform)[:6],
        _iso_date(sample.date or raster.tags.get("date")),
        sample.label,
        sample.labels,
    )


def _stored(raster: Raster, scale: float) -> tuple[np.ndarray, int]:
    """Return pixels without their offset as uint16, and the number of values that were clipped.

    Fractions, which resampled bands have, are rounded to the nearest integer. Values outside 0 ... 65535 are clipped. A
    pixel without data becomes 0 in all bands; a pixel with data that is 0 in all bands becomes 1 in the first band.
    """
    pixels, valid = raster.pixels, raster.valid
    if raster.offsets is not None and any(raster.offsets):
        pixels = pixels - np.asarray(raster.offsets, np.float32)[:, None, None]
    if scale != 1:
        pixels = pixels.astype(np.float32) * np.float32(scale)
    clipped = 0
    if pixels.dtype != np.uint16:
        pixels = np.where(valid, pixels, 0)
        if pixels.dtype.kind == "f":
            if np.abs(pixels).max() <= LARGEST_REFLECTANCE:
                raise ValueError(
                    f"Expected digital numbers (reflectance x 10000), found no value above {LARGEST_REFLECTANCE}. If "
                    "these are reflectances, pass `scale=10000`."
                )
            pixels = np.rint(pixels)
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 65535:
            clipped = int(((pixels < 0) | (pixels > 65535)).sum())
            pixels = pixels.clip(0, 65535)
        pixels = pixels.astype(np.uint16)
    else:
        pixels = np.where(valid, pixels, np.uint16(0))
    empty = valid & ~pixels.any(0)
    if empty.any():
        pixels[0, empty] = 1
    return pixels, clipped


def _iso_date(date: str | None) -> str | None:
    """Return a date in ISO format as it is, and None for any other text, which tags may hold."""
    try:
        datetime.fromisoformat(date or "")
    except ValueError:
        return None
    return date
