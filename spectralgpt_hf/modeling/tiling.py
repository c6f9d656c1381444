# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The grid of the tiles of a scene, the blending of their results, and the strips in which a scene is processed.

Results are stored in cells. A cell is a pixel of a map, a square of pixels for a map of features, or a whole tile for a
vector or a label. Positions are in cells from the scene's upper left corner, so that an area of interest does not
change the tiles.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


try:  # noqa: SIM105
    from affine import Affine
except ImportError:
    # `open_raster` raises an error that names the missing package.
    pass


class Box(NamedTuple):
    """Rows from `top` to `bottom` and columns from `left` to `right`, without the last ones, in pixels or cells."""

    left: int
    top: int
    right: int
    bottom: int


class Tile(NamedTuple):
    """Row and column of a tile in the grid."""

    row: int
    column: int


class Strip(NamedTuple):
    """Cells that are finished together, because no tile below the row `row` of tiles overlaps them.

    Attributes:
        panel: Number of the panel, a range of columns.
        row: Row of tiles.
        box: Box of the cells.
    """

    panel: int
    row: int
    box: Box

    @property
    def name(self) -> str:
        """Name of the strip's file."""
        return f"panel{self.panel}_row{self.row:05d}"


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size at regular distances. The last ones are moved inwards, to whole cells.

    Attributes:
        height, width: Size of the scene, in pixels.
        size: Height and width of a tile, in pixels.
        stride: Distance between tiles, in pixels, a multiple of `cell`.
        cell: Height and width of a cell, in pixels.
        cells: Number of cells on a side of a tile: `size / cell`, or 1 if a tile has one result.
        shift: Distance by which the grid is moved up and left, in pixels, a multiple of `cell`.
    """

    height: int
    width: int
    size: int
    stride: int
    cell: int = 1
    cells: int = 1
    shift: int = 0

    @classmethod
    def cover(
        cls, height: int, width: int, size: int, overlap: float, cell: int | None, step: int, shift: int = 0
    ) -> "TileGrid":
        """Return the grid that covers a scene.

        Args:
            height, width: Size of the scene, in pixels.
            size: Height and width of a tile, in pixels.
            overlap: Share of a tile that the next one covers too. It is rounded, because tiles start at whole cells
                and tokens.
            cell: Height and width of a cell, in pixels; None if a tile has one result.
            step: Height and width of a token, in pixels, or 1 if tiles may start anywhere.
            shift: As the attribute.

        Raises:
            ValueError: If the tile size is not a multiple of token and cell, or `overlap` or `shift` is out of range.
        """
        unit = math.lcm(step, cell or 1)
        if size < 1 or size % unit:
            cells = "" if cell is None or step % cell == 0 else f" and of `stride` ({cell} px)"
            raise ValueError(f"Expected a tile size that is a multiple of {step} px (a token){cells}, got {size}.")
        if not 0 <= overlap < 1:
            raise ValueError(f"Expected an overlap of 0 or more and below 1, got {overlap}.")
        stride = max(unit, round(size * (1 - overlap) / unit) * unit)
        if shift < 0 or shift % (cell or 1):
            raise ValueError(f"Expected a shift of 0 or more whole cells, got {shift} px.")
        return cls(height, width, size, stride, cell or stride, size // cell if cell else 1, shift)

    @cached_property
    def tops(self) -> list[int]:
        """First row of each row of tiles, in pixels."""
        return self._starts(self.height)

    @cached_property
    def lefts(self) -> list[int]:
        """First column of each column of tiles, in pixels."""
        return self._starts(self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns of cells."""
        rows, columns = (
            min(starts[-1] // self.cell + self.cells, -(-length // self.cell))
            for starts, length in ((self.tops, self.height), (self.lefts, self.width))
        )
        return rows, columns

    @property
    def margin(self) -> float:
        """Distance between the edge of a tile and that of its cells, in pixels."""
        return (self.size - self.cells * self.cell) / 2

    def transform(self, transform: "Affine", box: Box) -> "Affine":
        """Return the transform of the cells of `box` for the transform of the scene's pixels."""
        left, top = (position * self.cell + self.margin for position in box[:2])
        # Written out, because releases of affine differ in the operator for products.
        a, b, c, d, e, f = tuple(transform)[:6]
        matrix = (a * self.cell, b * self.cell, a * left + b * top + c)
        return type(transform)(*matrix, d * self.cell, e * self.cell, d * left + e * top + f)

    def to_cells(self, pixels: Box) -> Box:
        """Return the cells that a box of pixels touches."""
        rows, columns = self.shape
        left, top = (int(max(0, (start - self.margin) // self.cell)) for start in pixels[:2])
        right, bottom = (int(-(-(stop - self.margin) // self.cell)) for stop in pixels[2:])
        right, bottom = min(max(right, left + 1), columns), min(max(bottom, top + 1), rows)
        return Box(min(left, columns - 1), min(top, rows - 1), right, bottom)

    def strips(self, box: Box, panel_width: int) -> list[Strip]:
        """Cut a box of cells into panels of at most `panel_width` columns, and these into strips, from the top."""
        starts = [top // self.cell for top in self.tops]
        ends = [*starts[1:], self.shape[0]]
        rows = [(row, max(start, box.top), min(end, box.bottom)) for row, (start, end) in enumerate(zip(starts, ends))]
        return [
            Strip(panel, row, Box(left, top, min(left + panel_width, box.right), bottom))
            for panel, left in enumerate(range(box.left, box.right, panel_width))
            for row, top, bottom in rows
            if top < bottom
        ]

    def rows_of(self, strips: list[Strip]) -> list[int]:
        """Return the rows of tiles that overlap neighbouring strips of one panel."""
        first = strips[0].box.top
        return [row for row in range(strips[-1].row + 1) if self.tops[row] // self.cell + self.cells > first]

    def columns_of(self, strip: Strip) -> list[int]:
        """Return the columns of tiles that overlap a strip."""
        starts = [left // self.cell for left in self.lefts]
        return [i for i, x in enumerate(starts) if x < strip.box.right and x + self.cells > strip.box.left]

    def _starts(self, length: int) -> list[int]:
        last = max(0, -(-(length - self.size) // self.cell) * self.cell)
        return np.unique(np.clip(np.arange(-self.shift, last + self.stride, self.stride), 0, last)).tolist()


class Blend:
    """Weighted mean of overlapping tiles, in a buffer of the height of one tile that moves down the scene.

    Each cell sums up its tiles row by row and from left to right, with one operation per tile. Its value is therefore
    the same to the last bit, no matter how the scene is divided.

    Args:
        channels: Number of values per cell.
        cells: Number of cells on a side of a tile.
        box: Box of the cells whose columns are buffered. Its rows are taken from the top.
    """

    def __init__(self, channels: int, cells: int, box: Box) -> None:
        window = blending_weights(cells)
        self._window = np.outer(window, window).astype(np.float32)
        self._left, self._width, self._top = box.left, box.right - box.left, box.top
        self._values = np.zeros((channels, cells, self._width), np.float32)
        self._weights = np.zeros((cells, self._width), np.float32)

    def add(self, values: np.ndarray, valid: np.ndarray, top: int, left: int) -> None:
        """Add a tile.

        Args:
            values: (K, cells, cells), float32.
            valid: (cells, cells), False where the tile has no result.
            top, left: First row and column of the tile, in cells. Cells above and beside the buffer are left out.
        """
        weights = self._window * valid
        # Infinity times 0 would be NaN.
        values = np.where(valid, values, np.float32(0)) * weights
        above, beside = max(0, self._top - top), max(0, self._left - left)
        row, column = top + above - self._top, left + beside - self._left
        weights, values = weights[above:, beside:], values[:, above:, beside:]
        target = np.s_[row : row + len(weights), column : column + weights.shape[1]]
        width = self._width - column
        self._values[(np.s_[:], *target)] += values[:, :, :width]
        self._weights[target] += weights[:, :width]

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first `count` rows as values (K, count, width) and valid mask (count, width), and drop them."""
        weights = self._weights[:count]
        valid = weights > 0
        values = self._values[:, :count] / np.where(valid, weights, np.float32(1))
        for buffer in (self._values, self._weights):
            buffer[..., :-count, :] = buffer[..., count:, :].copy() if count < buffer.shape[-2] else 0
            buffer[..., -count:, :] = 0
        self._top += count
        return values, valid


def blending_weights(cells: int) -> np.ndarray:
    """Return the weight of each cell on a side of a tile, a raised cosine.

    At its edges a tile has the least context. No weight is 0, because there is only one tile at the edge of a scene.
    """
    return np.sin(np.pi * (np.arange(cells) + 0.5) / cells) ** 2


def runs(strips: list[Strip]) -> Iterator[list[Strip]]:
    """Group strips that follow each other in one panel."""
    group: list[Strip] = []
    for strip in strips:
        if group and (strip.panel, strip.row) != (group[-1].panel, group[-1].row + 1):
            yield group
            group = []
        group.append(strip)
    if group:
        yield group
