"""Cells of the grid of Major TOM (https://arxiv.org/abs/2402.12095), 10 km apart, with a row and a column.

The meridian from pole to pole on a sphere is divided into rows, and the circle of latitude of each row into columns, in
steps of at most 10 km. Row 0 and column 0 begin at latitude and longitude 0.
"""

import math
from dataclasses import dataclass


RADIUS_KM = 6378.137
DISTANCE_KM = 10.0
ROWS = math.ceil(math.pi * RADIUS_KM / DISTANCE_KM)


@dataclass(frozen=True)
class Cell:
    """A cell of the grid.

    Attributes:
        row: Number of the row, from 0 upwards to the north of the equator, from -1 downwards to the south.
        column: Number of the column, from 0 upwards to the east of Greenwich, from -1 downwards to the west.
    """

    row: int
    column: int

    @property
    def name(self) -> str:
        """Name in Major TOM: "433U_78L" is row 433 up from the equator and column 78 left of Greenwich."""
        vertical, horizontal = "U" if self.row >= 0 else "D", "R" if self.column >= 0 else "L"
        return f"{abs(self.row)}{vertical}_{abs(self.column)}{horizontal}"


def find_cell(latitude: float, longitude: float) -> Cell:
    """Return the cell that contains a point.

    Args:
        latitude: -90 to 90 degrees.
        longitude: -180 to 180 degrees.
    """
    row = min(math.floor(latitude * ROWS / 180), math.ceil(ROWS / 2) - 1)
    circumference = 2 * math.pi * RADIUS_KM * math.cos(math.radians(row * 180 / ROWS))
    columns = max(1, math.ceil(circumference / DISTANCE_KM))
    column = math.floor(longitude * columns / 360)
    return Cell(row, (column + columns // 2) % columns - columns // 2)  # the last column may cross longitude 180
