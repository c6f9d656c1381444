"""Readers of your own data: one folder per class, images with maps, or pairs of dates with maps of change.

Splits come from one folder per split, or from the column `split` of `table.csv` (see `layouts`). Missing splits are
held out, always in the same way for a seed. If there are no splits at all, 10 % of the samples, at least one, are held
out for validation and as many for test. If only validation is missing, 10 % of `train` are held out for it. Whole files
are held out, or all files of one `site` of the table, so that crops of one scene never end up in two splits.
`holdout="spatial"` is for a single large image: it holds out square blocks of the scenes, and leaves out crops that
touch blocks of two splits. `holdout="auto"` keeps files together unless there are few: with fewer than 10, validation
takes blocks of the training files, and with fewer than 3 the test split does too.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_args

import numpy as np
from datasets import ClassLabel, Dataset, Value

from ...modeling.bands import SENTINEL_2, Sensor
from ...modeling.dates import date_in_name
from ...modeling.geometry import IGNORE_INDEX
from ...modeling.rasters import open_raster, read_raster
from .columns import MultispectralImage, Reference, SegmentationMap, declared_nodata, map_band
from .common import SPLITS, FeatureType, PathLike, build_dataset, class_number, hold_out, series_columns, split_name
from .layouts import SUFFIXES, TableRow, find_base, group_dates, list_images, match_roles, name_of, read_table, scene_of
from .scene_crops import Scene, build_scene_dataset


HELD_OUT_SHARE = 0.1
FEW_FILES, FEW_BLOCKS = 10, 5
BLOCK_SHARE = 0.2
"""Share of the blocks of few files that validates: a tenth of them would be too few to choose a checkpoint by."""

Holdout: TypeAlias = Literal["auto", "file", "spatial"]

T = TypeVar("T", bound=Sequence[Any])


class MapOptions(TypedDict):
    """The arguments of `load_image_masks` and `load_change_pairs` that the options of fine-tuning set for both."""

    masks: str | None
    band_names: Sequence[str] | None
    ignore: Collection[int]
    size: int | None
    stride: int | None
    holdout: Holdout


def load_image_folder(
    root: PathLike,
    split: str = "train",
    *,
    band_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    sensor: Sensor = SENTINEL_2,
    series: bool = False,
) -> Dataset:
    """List images in one folder per class, `<root>/[<split>/]<class>/**/<image>.tif`, or with one number per image.

    Rows hold `id`, `pixels` (C, H, W) of any size, `bands` and `label`: a class number, or a float where `table.csv`
    has a column `value` (for regression). The images of the table may then be in any folders below `root`.

    Args:
        root: Parent of the folders of the classes, or of the folders of the splits.
        split: "train", "validation", "test" or "all". The docstring of the module describes how splits are found.
        band_names: Names of the files' bands, in order, if the files do not name them.
        class_names: The classes, in the order of their numbers. Defaults to the names of the folders, alphabetically.
        seed: Seed of the random choice of samples to hold out.
        sensor: Sensor of the images.
        series: Whether files of the same name apart from a date are the dates of one sample, as in `group_dates`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder is not among `class_names`, if there is no image, if its bands have no names, or if an
            image has no value and others have one.
    """
    base = Path(root)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: no such folder; expected the parent of one folder per class.")
    parts, table = _split_folders(base), read_table(base)
    if any(row.value is not None for row in table.values()):
        if class_names is not None:
            raise ValueError(f"{base / 'table.csv'}: the column `value` is for regression, without `class_names`.")
        if series:
            raise ValueError(f"{base / 'table.csv'}: expected classes of series, found values for regression.")
        images = _select(base, parts, split, seed, lambda folder: _list_values(base, folder, table), table)
        return _build_images(base, images, table, band_names, Value("float32"), sensor)
    classes = sorted({child.name for part in parts.values() or [base] for child in part.iterdir() if child.is_dir()})
    names = list(class_names or classes)
    numbers = {name: number for number, name in enumerate(names)}

    def list_samples(folder: Path) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        for child in (child for child in sorted(folder.iterdir()) if child.is_dir()):
            files = {name_of(file, folder): file for file in list_images(child)}
            grouped = group_dates(files) if series else {name: [file] for name, file in files.items()}
            found |= {name: (*dates, class_number(child.name, numbers, dates[0])) for name, dates in grouped.items()}
        return found

    samples = _select(base, parts, split, seed, list_samples, table)
    return _build_images(base, samples, table, band_names, ClassLabel(names=names), sensor, series)


def load_image_masks(
    root: PathLike,
    split: str = "train",
    *,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    band_names: Sequence[str] | None = None,
    ignore: Collection[int] = (IGNORE_INDEX,),
    size: int | None = None,
    stride: int | None = None,
    holdout: Holdout = "file",
    seed: int = 0,
    sensor: Sensor = SENTINEL_2,
    series: bool = False,
) -> Dataset:
    """List images and maps of classes of the same name: `<root>/[<split>/]images/<name>.tif`, `masks/<name>.png`.

    It also finds the pairs of SEN12MS (`s2_<n>/ROIs..._s2_<n>_p<m>.tif` and `lc_<n>/..._lc_...`, with the classes of
    the IGBP in the first band) and of DFC2020 (`dfc_<n>`).

    Rows have the columns of `build_scene_dataset`, for one date.

    Args:
        root: Any ancestor of the two folders, or of the splits' folders.
        split: As in `load_image_folder`.
        classes: Names of the classes; a mapping from stored values to names if the maps store other values than 0, 1,
            2, ... By default, the classes are the values that the maps store.
        images: Folder of the images, or a pattern such as `pre_*.tif`. By default it is found (see `layouts`). Files of
            one sample have the same name, unless there is only one sample.
        masks: Folder of the maps, or a pattern.
        band_names: As in `load_image_folder`.
        ignore: Values of the maps that mean no class.
        size, stride: Size of the crops and distance between them in pixels, as in `build_scene_dataset`.
        holdout: Whether whole files ("file") or blocks of each scene ("spatial", only with `size`) are held out, or
            which of the two is decided by the number of files ("auto", see the module).
        seed: Seed of the random choice of files or blocks to hold out.
        sensor: As in `load_image_folder`.
        series: Whether each map belongs to several images of its name, which differ in a date, as in `group_dates`.

    Raises:
        FileNotFoundError: If a folder is missing, or an image or a map has no counterpart.
        ValueError: If `split` is unknown, there is no image, its bands have no names, or a map has another size.
    """
    roles = {"images": images, "masks": masks}
    return _load_scenes(root, split, roles, band_names, classes, ignore, size, stride, holdout, seed, sensor, series)


def load_change_pairs(
    root: PathLike,
    split: str = "train",
    *,
    classes: Sequence[str] | Mapping[int, str] = ("no change", "change"),
    before: str | None = None,
    after: str | None = None,
    masks: str | None = None,
    band_names: Sequence[str] | None = None,
    ignore: Collection[int] = (IGNORE_INDEX,),
    size: int | None = None,
    stride: int | None = None,
    holdout: Holdout = "file",
    seed: int = 0,
    sensor: Sensor = SENTINEL_2,
) -> Dataset:
    """List two dates and the map of change between them: `<root>/[<split>/]{before,after,masks}/<name>.tif`.

    Rows have the columns of `build_scene_dataset`, for two dates. Arguments and errors are those of `load_image_masks`.
    Maps that store change as 255 need `classes={0: "no change", 255: "change"}, ignore=()`.
    """
    roles = {"before": before, "after": after, "masks": masks}
    return _load_scenes(root, split, roles, band_names, classes, ignore, size, stride, holdout, seed, sensor)


def _list_values(base: Path, folder: Path, table: Mapping[str, TableRow]) -> dict[str, tuple[Path, float]]:
    """Return the images of a folder that the table lists, with the value of each."""
    found = {}
    for file in list_images(folder):
        row = table.get(file.relative_to(base).as_posix())
        if row is not None and row.value is None:
            raise ValueError(f"{base / 'table.csv'}: expected a `value` for every image, found none for {file}.")
        if row is not None and row.value is not None:
            found[name_of(file, folder)] = (file, row.value)
    return found


def _build_images(
    base: Path,
    samples: Mapping[str, tuple[Any, ...]],
    table: Mapping[str, TableRow],
    band_names: Sequence[str] | None,
    label: ClassLabel | Value,
    sensor: Sensor,
    series: bool = False,
) -> Dataset:
    """Assemble rows of samples, which are the path of the image of each date, and a label."""

    def refer(path: Path) -> Reference:
        row = table.get(path.relative_to(base).as_posix(), TableRow())
        return Reference(path=str(path), window=None, extent=None, offset=row.offset, nodata=row.nodata)

    references = [[refer(path) for path in paths] for *paths, _ in samples.values()]
    first = [dates[0] for dates in references]
    image = _image_type(base, [reference["path"] for reference in first], band_names, sensor)
    columns: dict[str, tuple[FeatureType, Sequence[object]]] = {"label": (label, [s[-1] for s in samples.values()])}
    sites = [table.get(sample[0].relative_to(base).as_posix(), TableRow()).site for sample in samples.values()]
    if any(sites):
        columns["site"] = (Value("string"), [site or name for name, site in zip(samples, sites)])
    if series:
        columns |= series_columns(image, references, [_dates(paths) for *paths, _ in samples.values()])
    return build_dataset(base, list(samples), image, first, **columns)


def _dates(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the dates in the names of files."""
    return tuple(str(date_in_name(path.name)) for path in paths)


def _load_scenes(
    root: PathLike,
    split: str,
    roles: Mapping[str, str | None],
    band_names: Sequence[str] | None,
    classes: Sequence[str] | Mapping[int, str] | None,
    ignore: Collection[int],
    size: int | None,
    stride: int | None,
    holdout: Holdout,
    seed: int,
    sensor: Sensor,
    series: bool = False,
) -> Dataset:
    if holdout not in get_args(Holdout) or (holdout == "spatial" and size is None):
        raise ValueError(f"`holdout` must be 'auto', 'file' or, for crops of a `size`, 'spatial', got {holdout!r}.")
    base = find_base(root, roles)
    parts, table = _split_folders(base), read_table(base)
    wanted = str(split_name(split))

    def list_samples(folder: Path) -> dict[str, list[Path]]:
        return match_roles(folder, roles, series)

    def select(split: str) -> dict[str, list[Path]]:
        return _select(base, parts, split, seed, list_samples, table)

    by_block = _splits_by_block(holdout, base, parts, list_samples, table) if wanted in SPLITS and size else ()
    if wanted not in by_block:
        samples = select(split)
    else:
        samples = select("all") if by_block == tuple(SPLITS) else select("train") | select("validation")
    # Of the four schemes of SEN12MS, the first is that of the IGBP.
    band = 1 if any(re.match(r"ROIs.*_lc_", files[-1].name) for files in samples.values()) else None
    if classes is None:
        found = _codes(tuple(str(files[-1]) for files in select("all").values()), tuple(ignore), band)
        classes = {code: str(code) for code in found}
    scenes = []
    for name, files in samples.items():
        found_rows = [table.get(file.relative_to(base).as_posix(), TableRow()) for file in files[:-1]]
        scenes.append(
            Scene(
                name,
                tuple(map(str, files[:-1])),
                str(files[-1]),
                found_rows[0].site or scene_of(name),
                tuple(row.offset for row in found_rows),
                tuple(row.nodata for row in found_rows),
                _dates(files[:-1]) if series else (),
            )
        )
    image = _image_type(base, [scene.images[0] for scene in scenes], band_names, sensor)
    rows = build_scene_dataset(base, scenes, image, _map_type(classes, ignore, band), size, stride)
    if wanted not in by_block:
        return rows
    touched, side = _touched_blocks(rows)
    blocks = sorted(set().union(*touched))
    if holdout == "auto" and len(blocks) < FEW_BLOCKS:
        return _load_scenes(root, split, roles, band_names, classes, ignore, size, stride, "file", seed, sensor, series)
    if len(blocks) < 3:
        raise ValueError(f"Expected at least 3 blocks of {side} px to hold some out, found {len(blocks)}.")
    share = HELD_OUT_SHARE if "test" in by_block else BLOCK_SHARE
    held_out = _hold_out_splits(blocks, seed, by_block, share)[wanted]
    kept = [row for row, crop in enumerate(touched) if crop <= held_out]
    if not kept:
        raise ValueError(f"No crop is inside blocks of {side} px of the split {wanted!r}: choose a smaller `size`.")
    sites = [min(touched[row]) for row in kept]
    return rows.select(kept).remove_columns("site").add_column("site", sites)


def _splits_by_block(
    holdout: Holdout,
    base: Path,
    parts: Mapping[str, Path],
    list_samples: Callable[[Path], dict[str, list[Path]]],
    table: Mapping[str, TableRow],
) -> tuple[str, ...]:
    """Return the splits that share files, of which each takes other blocks."""
    if holdout == "spatial":
        return tuple(SPLITS)
    if holdout == "file" or "validation" in parts or (parts and "train" not in parts):
        return ()
    pool = list_samples(parts.get("train", base))
    stated = {_stated_split(base, name, files, table) for name, files in pool.items()}
    if len(pool) >= FEW_FILES or "validation" in stated:
        return ()
    return tuple(SPLITS) if not parts and stated == {None} and len(pool) < 3 else ("train", "validation")


def _touched_blocks(rows: Dataset) -> tuple[list[set[str]], int]:
    """Return the blocks that each crop touches and their side. A scene has about eight along its longer side."""
    windows, scenes = list(rows["window"]), list(rows["scene"])
    size, longest = windows[0][2], max(left + width for left, _, width, _ in windows)
    longest = max(longest, *(top + height for _, top, _, height in windows))
    side = size * max(1, round(longest / (8 * size)))
    touched = []
    for scene, (left, top, width, height) in zip(scenes, windows):
        down, across = (
            range(top // side, (top + height - 1) // side + 1),
            range(left // side, (left + width - 1) // side + 1),
        )
        touched.append({f"{scene}, block {row} {column}" for row in down for column in across})
    return touched, side


def _hold_out_splits(
    names: Sequence[str], seed: int, splits: Collection[str] = tuple(SPLITS), share: float = HELD_OUT_SHARE
) -> dict[str, set[str]]:
    """Distribute names over the splits; with three names or more, each split gets at least one."""
    share = max(share, 1 / len(names)) if len(names) > 2 else share
    test = hold_out(names, share, seed) if "test" in splits else set()
    validation = hold_out(names, (2 if "test" in splits else 1) * share, seed) - test
    return {"train": set(names) - validation - test, "validation": validation, "test": test}


@lru_cache(maxsize=8)
def _codes(maps: tuple[str, ...], ignore: tuple[int, ...], band: int | None) -> list[int]:
    """Return the values that maps store, without those that mean no class."""
    found: set[int] = set()
    for path in maps:
        pixels = read_raster(path, resolution=None).pixels
        stored = pixels if band is None else map_band(pixels, band, path)
        found |= set(np.unique(stored).tolist()) - {declared_nodata(path)}
    codes = sorted(int(code) for code in found - set(ignore))
    if len(codes) >= IGNORE_INDEX:
        raise ValueError(f"{maps[0]}: expected maps of fewer than {IGNORE_INDEX} classes, found {len(codes)} values.")
    return codes


def _split_folders(base: Path) -> dict[str, Path]:
    found = {name: [base / alias for alias in aliases if (base / alias).is_dir()] for name, aliases in SPLITS.items()}
    return {name: folders[0] for name, folders in found.items() if folders}


def _select(
    base: Path,
    parts: Mapping[str, Path],
    split: str,
    seed: int,
    list_samples: Callable[[Path], dict[str, T]],
    table: Mapping[str, TableRow] | None = None,
) -> dict[str, T]:
    """Return the samples of a split by name. The split comes from a folder, from the table, or from holding out."""
    wanted = split_name(split)
    if wanted is None:
        raise ValueError(f"Expected `split` to be train, validation, test or all, got {split!r}.")
    if wanted == "all":
        if not parts:
            return list_samples(base)
        return {f"{part.name}/{key}": sample for part in parts.values() for key, sample in list_samples(part).items()}
    if wanted in parts and (wanted != "train" or "validation" in parts):
        return list_samples(parts[wanted])
    if parts and (wanted == "test" or "train" not in parts):
        raise FileNotFoundError(f"{base}: expected a folder {wanted} beside {', '.join(map(str, parts))}, found none.")
    pool = list_samples(parts["train"] if parts else base)
    stated = {} if parts else {name: _stated_split(base, name, sample, table or {}) for name, sample in pool.items()}
    if any(stated.values()):
        return {name: pool[name] for name, found in stated.items() if found == wanted}
    sites = {name: _site(base, name, sample, table or {}) for name, sample in pool.items()}
    names = sorted(set(sites.values()))
    if parts:
        validation = hold_out(names, max(HELD_OUT_SHARE, 1 / len(names)) if len(names) > 1 else HELD_OUT_SHARE, seed)
        held_out = {"validation": validation, "train": set(names) - validation}[wanted]
    else:
        held_out = _hold_out_splits(names, seed)[wanted]
    return {name: sample for name, sample in pool.items() if sites[name] in held_out}


def _stated_split(base: Path, name: str, sample: Sequence[Any], table: Mapping[str, TableRow]) -> str | None:
    """Return the split that the table states, or else that of a folder in the name, as in `images/train/a.tif`."""
    row = table.get(sample[0].relative_to(base).as_posix())
    return row.split if row and row.split else split_name(name.split("/")[0]) if "/" in name else None


def _site(base: Path, name: str, sample: Sequence[Any], table: Mapping[str, TableRow]) -> str:
    row = table.get(sample[0].relative_to(base).as_posix())
    return (row and row.site) or scene_of(name) or name


def _image_type(
    base: Path, paths: Sequence[str], band_names: Sequence[str] | None, sensor: Sensor
) -> MultispectralImage:
    """Take the band names from the caller, or else from the first file. Every file must then hold these bands."""
    if not paths:
        raise ValueError(f"{base}: expected images of this split ({', '.join(SUFFIXES)}), found none.")
    if band_names is not None:
        names = list(sensor.resolve_all(band_names))
        return _of_sensor(names, names, sensor)
    with open_raster(paths[0], resolution=None, expected=sensor) as reader:
        if reader.band_names is None:
            raise ValueError(
                f"{paths[0]}: expected bands with names, found none. Pass `band_names`, in the order of the file."
            )
        return _of_sensor(list(reader.band_names), None, sensor)


def _of_sensor(bands: list[str], band_names: list[str] | None, sensor: Sensor) -> MultispectralImage:
    if sensor.name == SENTINEL_2.name:
        return MultispectralImage(bands, band_names=band_names)
    wavelengths = sensor.wavelengths(bands)
    return MultispectralImage(bands, band_names=band_names, sensor=sensor.name, wavelengths=wavelengths)


def _map_type(classes: Sequence[str] | Mapping[int, str], ignore: Collection[int], band: int | None) -> SegmentationMap:
    stored = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes))
    twice = sorted(set(stored) & set(ignore))
    if twice:
        raise ValueError(f"Expected each value to be in `classes` or in `ignore`, found {twice} in both.")
    labels = [*range(len(stored)), *[IGNORE_INDEX] * len(ignore)]
    return SegmentationMap(list(stored.values()), codes=[*stored, *ignore], labels=labels, band=band)
