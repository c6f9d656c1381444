"""Find the images and the maps in your own folders, and read the table that may describe them.

The role of a file follows from its folder (`images/`, `masks/`), or else from a word at the start or the end of its
name (`a_mask.tif`, `pre_2019.tif`). The files of one sample share the rest of their name. A `table.csv` beside them may
state `split`, `site`, `offset`, `nodata` and `value` of each image, whose path is in the column `path`.
"""

import csv
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...modeling.dates import date_in_name
from .common import SPLITS, PathLike, find_folder, split_name


DATE = re.compile(r"[_.-]*(?<!\d)20\d\d-?[01]\d-?[0-3]\d(?:T\d{6})?(?!\d)")
"""A date in the name of a file, with the characters before it and the time after it."""

SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".npy", ".img", ".vrt")

ROLE_WORDS = {
    "images": ("images", "image", "imgs", "img", "s2", "sentinel2", "sentinel_2", "l2a", "l1c"),
    "masks": ("masks", "mask", "labels", "label", "annotations", "lulc", "cm", "gt"),
    "before": ("before", "pre"),
    "after": ("after", "post"),
}
"""The words that mark each role in names of folders and files, in lower case."""

# SEN12MS and DFC2020: images and maps of a patch are in different folders, and differ by a word within their names.
_SEN12MS = re.compile(r"(ROIs\w+?)_(s2|lc|dfc)_(\d+_p\d+)")
_SEN12MS_KINDS = {"images": ("s2",), "masks": ("lc", "dfc")}

_COLUMNS = ("path", "split", "site", "offset", "nodata", "value")


@dataclass(frozen=True)
class TableRow:
    """A row of `table.csv`; None for each empty cell.

    Attributes:
        split: "train", "validation" or "test".
        site: Location on Earth, which must not be in two splits.
        offset: Number that is added to the digital numbers instead of the offset that the file states.
        nodata: Stored value that means no data.
        value: Measured for the whole image, to be predicted by regression.
    """

    split: str | None = None
    site: str | None = None
    offset: float | None = None
    nodata: float | None = None
    value: float | None = None


def read_table(base: Path) -> dict[str, TableRow]:
    """Read `table.csv` of a folder: rows by the images' paths relative to the folder, or {} if there is no table.

    Raises:
        ValueError: If the table has an unknown column or split, or an offset or nodata value that is not a number.
    """
    path = base / "table.csv"
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        if "path" not in columns or not set(columns) <= set(_COLUMNS):
            raise ValueError(
                f"{path}: expected the columns path and some of {', '.join(_COLUMNS[1:])}, found {columns}."
            )
        rows = list(reader)
    table = {}
    for line, row in enumerate(rows, start=2):
        split = split_name(row["split"]) if row.get("split") else None
        try:
            numbers = [float(row[name]) if row.get(name) else None for name in ("offset", "nodata", "value")]
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: expected numbers for offset, nodata, value ({error}).") from error
        if any(number is not None and not math.isfinite(number) for number in numbers[::2]):
            raise ValueError(f"{path}, line {line}: expected a finite offset and value, found {numbers[::2]}.")
        if row.get("split") and split in (None, "all"):
            raise ValueError(f"{path}, line {line}: expected a split of {', '.join(SPLITS)}, found {row['split']!r}.")
        table[row["path"]] = TableRow(split, row.get("site") or None, *numbers)
    return table


def find_base(root: PathLike, roles: Mapping[str, str | None]) -> Path:
    """Return `root` or the nearest folder below it that holds files of the first role, or folders of splits with them.

    Args:
        root: Any ancestor.
        roles: Folder or pattern of the files of each role; None if it is to be found.

    Raises:
        FileNotFoundError: If there is none.
    """
    role, pattern = next(iter(roles.items()))
    aliases = list(itertools.chain(*SPLITS.values()))
    if pattern is not None:
        return find_folder(root, pattern, *(f"{alias}/{pattern}" for alias in aliases))
    words = [variant for word in ROLE_WORDS[role] for variant in (word, word.upper(), word.capitalize())]
    patterns = [
        *(f"{word}/" for word in words),
        *(f"{word}[_-]*.*" for word in words),
        *(f"*[_-]{word}.*" for word in words),
    ]
    if role == "images":  # the names of images need no word if those of the maps beside them have one
        patterns += [f"*[_-]{word}.*" for word in ROLE_WORDS["masks"]]
        patterns += ["s2_*/ROIs*_s2_*_p*.*", "ROIs*/s2_*/ROIs*_s2_*_p*.*"]
    return find_folder(root, *patterns, *(f"{alias}/{pattern}" for alias in aliases for pattern in patterns))


def match_roles(folder: Path, roles: Mapping[str, str | None], series: bool = False) -> dict[str, list[Path]]:
    """Return the files of each sample, one for each role, by the name that they share.

    With `series`, the first role has a file for each date (see `group_dates`).

    Raises:
        FileNotFoundError: If a role has no files, or a file has no counterpart.
        ValueError: If several folders match a role, or a file of a series has no date in its name.
    """
    found = {role: _files(folder, role, pattern, roles) for role, pattern in roles.items()}
    matches = {role: {name: [file] for name, file in files.items()} for role, files in found.items()}
    if series:
        first = next(iter(roles))
        matches[first] = group_dates(found[first])
    if all(len(files) == 1 for files in matches.values()):
        name = next(iter(next(iter(matches.values()))))
        return {name: [file for files in matches.values() for file in next(iter(files.values()))]}
    for (role, files), (other, others) in itertools.permutations(matches.items(), 2):
        alone = sorted(files.keys() - others.keys())
        if alone:
            raise FileNotFoundError(
                f"{files[alone[0]][0]}: expected a file of this name in {folder / (roles[other] or other)} too, found "
                f"none (and {len(alone) - 1} more in {roles[role] or role})."
            )
    return {name: [file for files in matches.values() for file in files[name]] for name in next(iter(matches.values()))}


def group_dates(files: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Return the files of each series in the order of their dates, by the name that they share apart from the date.

    `a_20200103.tif` and `a_20200301.tif` are the series `a`, and so are `a/20200103.tif` and `a/20200301.tif`.

    Args:
        files: Files by their names without the extension.

    Raises:
        ValueError: If a file has no date in its name (YYYYMMDD or YYYY-MM-DD), or two of a series have the same date.
    """
    series: dict[str, dict[str, Path]] = {}
    for name, file in files.items():
        date, rest = date_in_name(file.name), DATE.sub("", name).strip("/_-. ")
        if date is None:
            raise ValueError(f"{file}: expected the date of a series in its name (YYYYMMDD), found none.")
        other = series.setdefault(rest or name, {}).setdefault(date, file)
        if other is not file:
            raise ValueError(f"{file}: has the same date as {other} of the same series: leave one of them out.")
    return {name: [file for _, file in sorted(dated.items())] for name, dated in series.items()}


def list_images(folder: Path) -> list[Path]:
    """Return the raster files of a folder and those below it, sorted."""
    return sorted(file for file in folder.rglob("[!.]*") if file.suffix.lower() in SUFFIXES and file.is_file())


def name_of(file: Path, folder: Path) -> str:
    """Return the path of a file relative to a folder, without the extension."""
    return file.relative_to(folder).with_suffix("").as_posix()


def _files(folder: Path, role: str, pattern: str | None, roles: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the files of a role by their names without the word for the role."""
    if pattern is not None:
        if (folder / pattern).is_dir():
            return {name_of(file, folder / pattern): file for file in list_images(folder / pattern)}
        files = {file.stem: file for file in sorted(folder.glob(pattern)) if file.is_file()}
    else:
        named = [
            child for child in sorted(folder.iterdir()) if child.is_dir() and child.name.lower() in ROLE_WORDS[role]
        ]
        if len(named) > 1:
            found = ", ".join(child.name for child in named)
            raise ValueError(f"{folder}: expected one folder of {role}, found {found}: pass `{role}` to say which.")
        if named:
            return {name_of(file, named[0]): file for file in list_images(named[0])}
        rasters = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
        files = {name: file for file in rasters if (name := _without_word(file.stem, role)) is not None}
        if role == "images":
            others = [other for other in roles if other != role]
            plain = (file for file in rasters if all(_without_word(file.stem, other) is None for other in others))
            files = files or {file.stem: file for file in plain}
        files = files or _sen12ms_files(folder, role)
    if not files:
        raise FileNotFoundError(f"{folder / (pattern or role)}: no such folder, and no file that matches.")
    return files


def _sen12ms_files(folder: Path, role: str) -> dict[str, Path]:
    found = ((file, _SEN12MS.fullmatch(file.stem)) for file in list_images(folder) if role in _SEN12MS_KINDS)
    return {f"{name[1]}_{name[3]}": file for file, name in found if name and name[2] in _SEN12MS_KINDS[role]}


def scene_of(name: str) -> str | None:
    """Return the scene that a patch of SEN12MS overlaps others of, which is its site; None for other names."""
    found = re.fullmatch(r"(?:.*/)?(ROIs\w+_\d+)_p\d+", name)
    return found and found[1]


def _without_word(stem: str, role: str) -> str | None:
    """Return a name without the word for its role, or None if it has no such word."""
    words = "|".join(ROLE_WORDS[role])
    found = re.fullmatch(rf"(?:{words})[_-](.+)|(.+)[_-](?:{words})", stem, re.IGNORECASE)
    return found and (found[1] or found[2])
