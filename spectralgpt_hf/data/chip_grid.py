"""Cut square chips from scenes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..modeling.rasters import Raster, open_raster


def cut_chips(
    source: str | Path, size: int, stride: int | None = None, bands: Sequence[str] | None = None, min_valid: float = 1.0
) -> Iterator[Raster]:
    """Cut a scene into chips, each of which is read from its window of the file.

    Chips lie on a regular grid whose last row and column are moved inwards, so that the whole scene is covered. A scene
    smaller than `size` becomes one chip of its own size.

    Args:
        source: A scene in any format that `open_raster` reads.
        size: Height and width of a chip, in pixels.
        stride: Distance between chips, in pixels; `size` by default.
        bands: Names of the bands to read, in order; all by default.
        min_valid: Smallest share of pixels with data; chips below it are left out.

    Yields:
        Chips with pixels (C, `size`, `size`), their georeference and valid mask.
    """
    with open_raster(source, bands=bands) as reader:
        for left, top in chip_corners(reader.height, reader.width, size, stride):
            chip = reader.read((left, top, min(size, reader.width), min(size, reader.height)))
            if chip.valid.mean() >= min_valid:
                yield chip


def chip_corners(height: int, width: int, size: int, stride: int | None = None) -> list[tuple[int, int]]:
    """Return (left, top) of the chips that cover a scene, row by row, in pixels; arguments as in `cut_chips`."""
    if min(size, stride or size) < 1:
        raise ValueError(f"Expected a positive `size` and `stride`, in pixels, got {size} and {stride}.")
    lefts = _starts(width, size, stride or size)
    return [(left, top) for top in _starts(height, size, stride or size) for left in lefts]


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return np.unique(np.minimum(np.arange(0, last + stride, stride), last)).tolist()
