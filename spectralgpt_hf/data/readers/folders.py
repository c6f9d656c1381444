"""Data of one's own: a folder per class, images with maps, pairs of dates with maps of change.

Each may have a folder for each split. What has none is held out of the rest, always in the same way for a seed: 10 % of
the samples for validation and 10 % for test where there are no such folders at all, 10 % of `train` for validation
where only that is missing. Samples are whole files: crops of one scene never end in two splits.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from datasets import ClassLabel, Dataset

from ...modeling.bands import resolve_bands
from ...modeling.geometry import IGNORE_INDEX
from ...modeling.rasters import open_raster
from .columns import MultispectralImage, SegmentationMap
from .common import SPLITS, PathLike, build_dataset, class_number, find_folder, hold_out, split_name
from .scene_crops import Scene, build_scene_dataset


HELD_OUT_SHARE = 0.1

T = TypeVar("T")


def load_image_folder(
    root: PathLike,
    split: str = "train",
    *,
    band_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> Dataset:
    """List images in one folder per class: `<root>/[<split>/]<class>/**/<image>.tif`, or another format.

    Rows hold `id`, `pixels` (C, H, W) of any size, `bands` and `label`.

    Args:
        root: The parent of the classes' folders, or of the splits'.
        split: "train", "validation", "test" or "all"; see the module for splits without a folder.
        band_names: Names of the files' bands, in order, where the files do not say them.
        class_names: The classes, in the order of their numbers. Defaults to the names of the folders, alphabetically.
        seed: Of the samples held out.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder is not among `class_names`, or there is no image, or its bands have no names.
    """
    base = Path(root)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: no such folder; expected the parent of one folder per class.")
    parts = _split_folders(base)
    classes = sorted({child.name for part in parts.values() or [base] for child in part.iterdir() if child.is_dir()})
    names = list(class_names or classes)
    numbers = {name: number for number, name in enumerate(names)}

    def list_samples(folder: Path) -> dict[str, tuple[str, int]]:
        files = ((child.name, file) for child in sorted(folder.iterdir()) if child.is_dir() for file in _images(child))
        return {_key(file, folder): (str(file), class_number(name, numbers, file)) for name, file in files}

    samples = _select(base, parts, split, seed, list_samples)
    paths, labels = [path for path, _ in samples.values()], [label for _, label in samples.values()]
    image = _image_type(base, paths, band_names)
    return build_dataset(base, list(samples), image, paths, label=(ClassLabel(names=names), labels))


def load_image_masks(
    root: PathLike,
    split: str = "train",
    *,
    classes: Sequence[str] | Mapping[int, str],
    images: str = "images",
    masks: str = "masks",
    band_names: Sequence[str] | None = None,
    ignore: Collection[int] = (IGNORE_INDEX,),
    size: int | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> Dataset:
    """List images and maps of classes of the same name: `<root>/[<split>/]images/<name>.tif`, `masks/<name>.png`.

    Rows hold what `build_scene_dataset` says, for one date.

    Args:
        root: Any ancestor of the two folders, or of the splits' folders.
        split: As in `load_image_folder`.
        classes: Names of the classes; with the values that the maps store, where these are not 0, 1, 2, ...
        images: Folder of the images, or a pattern such as `pre_*.tif`. Files of one sample have the same name; where
            each pattern matches one file only, names may differ.
        masks: Folder of the maps, or a pattern.
        band_names: As in `load_image_folder`.
        ignore: Values of the maps that mean no class.
        size, stride: Crops, in pixels, as in `build_scene_dataset`.
        seed: Of the samples held out.

    Raises:
        FileNotFoundError: If a folder is missing, or an image or a map has no counterpart.
        ValueError: If `split` is unknown, there is no image, its bands have no names, or a map has another size.
    """
    return _load_scenes(root, split, [images], masks, band_names, _map_type(classes, ignore), size, stride, seed)


def load_change_pairs(
    root: PathLike,
    split: str = "train",
    *,
    classes: Sequence[str] | Mapping[int, str] = ("no change", "change"),
    before: str = "before",
    after: str = "after",
    masks: str = "masks",
    band_names: Sequence[str] | None = None,
    ignore: Collection[int] = (IGNORE_INDEX,),
    size: int | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> Dataset:
    """List two dates and the map of change between them: `<root>/[<split>/]{before,after,masks}/<name>.tif`.

    Rows hold what `build_scene_dataset` says, for two dates. Arguments and errors are those of `load_image_masks`; maps
    that store change as 255 need `classes={0: "no change", 255: "change"}, ignore=()`.
    """
    return _load_scenes(root, split, [before, after], masks, band_names, _map_type(classes, ignore), size, stride, seed)


_SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".npy", ".img", ".vrt")


def _load_scenes(
    root: PathLike,
    split: str,
    images: list[str],
    masks: str,
    band_names: Sequence[str] | None,
    map_type: SegmentationMap,
    size: int | None,
    stride: int | None,
    seed: int,
) -> Dataset:
    aliases = itertools.chain(*SPLITS.values())
    base = find_folder(root, images[0], *(f"{alias}/{images[0]}" for alias in aliases))

    patterns = [*images, masks]
    samples = _select(base, _split_folders(base), split, seed, lambda folder: _match(folder, patterns))
    scenes = [Scene(name, tuple(map(str, files[:-1])), str(files[-1])) for name, files in samples.items()]
    image = _image_type(base, [scene.images[0] for scene in scenes], band_names)
    return build_scene_dataset(base, scenes, image, map_type, size, stride)


def _split_folders(base: Path) -> dict[str, Path]:
    found = {name: [base / alias for alias in aliases if (base / alias).is_dir()] for name, aliases in SPLITS.items()}
    return {name: folders[0] for name, folders in found.items() if folders}


def _select(
    base: Path, parts: Mapping[str, Path], split: str, seed: int, list_samples: Callable[[Path], dict[str, T]]
) -> dict[str, T]:
    """Return the samples of a split, by name, from its folder or by holding out."""
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
    test = set() if parts else hold_out(list(pool), HELD_OUT_SHARE, seed)
    validation = hold_out(list(pool), HELD_OUT_SHARE * (1 if parts else 2), seed) - test
    held_out = {"validation": validation, "test": test, "train": pool.keys() - validation - test}[wanted]
    return {name: sample for name, sample in pool.items() if name in held_out}


def _match(folder: Path, patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each sample, one for each pattern, by the name that they share."""
    matches = [_files(folder, pattern) for pattern in patterns]
    if all(len(files) == 1 for files in matches):
        return {next(iter(matches[0])): [next(iter(files.values())) for files in matches]}
    for files, pattern in zip(matches, patterns):
        for other, other_pattern in zip(matches, patterns):
            alone = sorted(files.keys() - other.keys())
            if alone:
                raise FileNotFoundError(
                    f"{files[alone[0]]}: expected a file of this name in {folder / other_pattern} too, found none "
                    f"(and {len(alone) - 1} more in {pattern})."
                )
    return {name: [files[name] for files in matches] for name in matches[0]}


def _files(folder: Path, pattern: str) -> dict[str, Path]:
    inner = folder / pattern
    if inner.is_dir():
        return {_key(file, inner): file for file in _images(inner)}
    files = [file for file in sorted(folder.glob(pattern)) if file.is_file()]
    if not files:
        raise FileNotFoundError(f"{inner}: no such folder, and no file that matches.")
    return {file.stem: file for file in files}


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("[!.]*") if file.suffix.lower() in _SUFFIXES and file.is_file())


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _image_type(base: Path, paths: Sequence[str], band_names: Sequence[str] | None) -> MultispectralImage:
    """Take the bands' names from the caller, else those of the first file, which then every file must hold."""
    if not paths:
        raise ValueError(f"{base}: expected images of this split ({', '.join(_SUFFIXES)}), found none.")
    if band_names is not None:
        names = list(resolve_bands(band_names))
        return MultispectralImage(names, band_names=names)
    with open_raster(paths[0], resolution=None) as reader:
        if reader.bands is None:
            raise ValueError(f"{paths[0]}: expected named bands, found none: pass `band_names`, in the files' order.")
        return MultispectralImage(list(reader.bands))


def _map_type(classes: Sequence[str] | Mapping[int, str], ignore: Collection[int]) -> SegmentationMap:
    stored = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes))
    twice = sorted(set(stored) & set(ignore))
    if twice:
        raise ValueError(f"Expected each value to be in `classes` or in `ignore`, found {twice} in both.")
    labels = [*range(len(stored)), *[IGNORE_INDEX] * len(ignore)]
    return SegmentationMap(list(stored.values()), codes=[*stored, *ignore], labels=labels)
