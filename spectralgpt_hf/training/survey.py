"""A look at the files of a dataset before training: which of them seem to carry an offset that nothing states."""

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..data.readers.columns import MultispectralImage
from ..modeling.bands import SENTINEL_2
from ..modeling.chips import Chip, open_chips
from ..modeling.pixel_statistics import percentiles
from ..modeling.radiometry import CIRRUS_WITH_OFFSET
from .measuring import references_of
from .samples import Samples


SURVEYED = 2000
"""Largest number of files that are looked at, at even distances."""

LONGEST_SIDE = 256
"""Files are read decimated to this many pixels."""


def find_unstated_offsets(samples: Mapping[str, Samples]) -> dict[str, list[Path]]:
    """Return the files of each split that state no offset although their B10 is as bright as with an offset of +1000.

    B10 is dark over land and sea. Only L1C products have it, so files of L2A products are not found. Files for which an
    option or a table states an offset are not checked.
    """
    return {name: found for name, part in samples.items() if (found := _of_split(part))}


def describe_unstated_offsets(found: Mapping[str, Sequence[Path]], base: Path, output_dir: Path) -> str:
    """Write a table with an offset of -1000 for the files found, and return what to do about them.

    Args:
        found: Result of `find_unstated_offsets`.
        base: Folder where the reader looks for `table.csv`, to which its paths are relative.
        output_dir: Folder to write `table.csv` to.
    """
    files = sorted({file for part in found.values() for file in part})
    proposal = output_dir / "table.csv"
    output_dir.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, str]] = {}
    columns = ["path", "offset"]
    if (base / "table.csv").is_file():
        with open(base / "table.csv", newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            known = {row["path"]: row for row in reader}
            columns = list(dict.fromkeys([*(reader.fieldnames or ()), "offset"]))
    for file in files:
        name = file.relative_to(base).as_posix()
        known[name] = {**known.get(name, {"path": name}), "offset": "-1000"}
    with open(proposal, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(known.values())
    listed = "\n".join(f"  {file}" for file in files[:20]) + (
        f"\n  and {len(files) - 20} more" if len(files) > 20 else ""
    )
    return (
        f"{len(files)} files look as if their digital numbers carried an offset of +1000 (products since 2022) that "
        f"nothing states, because their B10 is bright:\n{listed}\nTrained as they are, they would not fit the others. "
        f"If they carry it, copy the table {proposal} to {base / 'table.csv'}, or pass `offset=-1000` where all files "
        "do. If they carry none, pass `offset=0`."
    )


def _of_split(part: Samples) -> list[Path]:
    image = part.dataset.features["pixels"]
    if not isinstance(image, MultispectralImage) or image.offset is not None:
        return []
    if image.sensor != SENTINEL_2.name or "B10" not in image.bands:
        return []
    stated = {date["path"]: date["offset"] for dates in references_of(part.dataset) for date in dates if date["path"]}
    paths = [path for path, offset in stated.items() if offset is None]
    step = max(1, -(-len(paths) // SURVEYED))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # reading the samples repeats them
        for path in tqdm(paths[::step], desc="Looking for offsets", disable=None):
            (chip,) = open_chips(path, ["B10"], image.band_names, image.nodata, longest_side=LONGEST_SIDE)
            if looks_offset(chip):
                found.append(Path(path))
    return found


def looks_offset(chip: Chip) -> bool:
    """Return whether an image states no offset although its B10 is as bright as if an offset had been added."""
    if chip.offsets is not None or "B10" not in chip.band_names:
        return False
    number = chip.band_names.index("B10")
    band = chip.pixels[None, number : number + 1].float()
    valid = (band[:, 0] != 0) if chip.valid is None else chip.valid[None]
    if not bool(valid.any()):
        return False
    (median,) = percentiles(band, valid, (0.5,))
    return float(torch.as_tensor(median).flatten()[0]) >= CIRRUS_WITH_OFFSET
