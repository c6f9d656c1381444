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
"""Where the tiles of a scene lie, how their results are blended, and which part of it is worked on at a time.

Results lie on cells: pixels for a map, `cell` pixels for a map of features, one chip for a vector or a label. Positions
are in cells from the scene's upper left corner, so that an area of interest changes no tile.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right`, both without the last; in pixels or in cells."""

    left: int
    top: int
    right: int
    bottom: int


class Tile(NamedTuple):
    """Row and column of a tile in the grid."""

    row: int
    column: int


class Strip(NamedTuple):
    """Cells that are finished together: those that no tile below the row `row` of tiles reaches.

    Attributes:
        panel: Which range of columns.
        row: Row of tiles.
        box: In cells.
    """

    panel: int
    row: int
    box: Box

    @property
    def name(self) -> str:
        """Of its file."""
        return f"panel{self.panel}_row{self.row:05d}"


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size at regular places; the last ones are moved inwards, to whole cells.

    Attributes:
        height, width: Of the scene, in pixels.
        size: Side of a tile, in pixels.
        stride: Distance between tiles, in pixels, a multiple of `cell`.
        cell: Side of a cell, in pixels.
        cells: Cells on a side of a tile: `size / cell`, or 1 where a tile gives one result.
        shift: By how much the grid is moved up and left, in pixels, a multiple of `cell`.
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
            height, width: Of the scene, in pixels.
            size: Side of a tile, in pixels.
            overlap: Share of a tile that the next one covers too, about: tiles start at whole cells and tokens.
            cell: Side of a cell, in pixels; None where a tile gives one result.
            step: Side of a token, in pixels, or 1 where any size will do.
            shift: As the attribute.

        Raises:
            ValueError: If the numbers do not fit each other.
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
        """Rows and columns of cells."""
        rows, columns = (
            min(starts[-1] // self.cell + self.cells, -(-length // self.cell))
            for starts, length in ((self.tops, self.height), (self.lefts, self.width))
        )
        return rows, columns

    @property
    def margin(self) -> float:
        """What lies between a tile's edge and that of its cells, in pixels."""
        return (self.size - self.cells * self.cell) / 2

    def transform(self, transform: Any, box: Box) -> Any:
        """Return the transform of the cells of `box`, from that of the scene's pixels."""
        left, top = (position * self.cell + self.margin for position in box[:2])
        # Written out: releases of affine differ in the operator for products.
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
        """Return the rows of tiles that reach into neighbouring strips of one panel."""
        first = strips[0].box.top
        return [row for row in range(strips[-1].row + 1) if self.tops[row] // self.cell + self.cells > first]

    def columns_of(self, strip: Strip) -> list[int]:
        """Return the columns of tiles that reach into a strip."""
        starts = [left // self.cell for left in self.lefts]
        return [i for i, x in enumerate(starts) if x < strip.box.right and x + self.cells > strip.box.left]

    def _starts(self, length: int) -> list[int]:
        last = max(0, -(-(length - self.size) // self.cell) * self.cell)
        return np.unique(np.clip(np.arange(-self.shift, last + self.stride, self.stride), 0, last)).tolist()


class Blend:
    """Weighted mean of overlapping tiles, in a buffer as high as one of them that moves down the scene.

    Every cell adds up its tiles row by row and from the left, one operation a tile: whatever else is worked on, its
    value is the same to the last bit.

    Args:
        channels: Values of a cell.
        cells: Cells on a side of a tile.
        box: In cells; its columns are kept, and its rows follow each other.
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
            valid: (cells, cells); where it is False the tile says nothing.
            top, left: Its first row and column, in cells. What lies above and beside the buffer is left out.
        """
        weights = self._window * valid
        # Infinity times 0 would be no number.
        values = np.where(valid, values, np.float32(0)) * weights
        above, beside = max(0, self._top - top), max(0, self._left - left)
        row, column = top + above - self._top, left + beside - self._left
        weights, values = weights[above:, beside:], values[:, above:, beside:]
        target = np.s_[row : row + len(weights), column : column + weights.shape[1]]
        width = self._width - column
        self._values[(np.s_[:], *target)] += values[:, :, :width]
        self._weights[target] += weights[:, :width]

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first `count` rows as values (K, count, width) and valid mask (count, width), and move down."""
        weights = self._weights[:count]
        valid = weights > 0
        values = self._values[:, :count] / np.where(valid, weights, np.float32(1))
        for buffer in (self._values, self._weights):
            buffer[..., :-count, :] = buffer[..., count:, :].copy() if count < buffer.shape[-2] else 0
            buffer[..., -count:, :] = 0
        self._top += count
        return values, valid


def blending_weights(cells: int) -> np.ndarray:
    """Return the weight of each of the cells on a side of a tile, a raised cosine.

    Tiles know least of what is at their edges. No weight is 0: at the edge of a scene there is only one tile.
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
