import numpy as np
import pytest

from spectralgpt_hf.inference.grid_cells import find_cell


RADIUS, DISTANCE = 6378.137, 10


def edges(circle, turn):
    """List where cells begin, in degrees: as many equal steps as 10 km fit, counted from 0 both ways."""
    steps = int(np.ceil(circle / DISTANCE))
    return np.sort(np.mod(np.linspace(-turn / 2, turn / 2, steps + 1)[:-1], turn) - turn / 2)


def index(starts, value):
    """Return the number of the cell that holds a value, 0 for the one that begins at 0; the last may go round."""
    return (np.searchsorted(starts, value, "right") - 1) % len(starts) - np.argmin(np.abs(starts))


def listed_cell(latitude, longitude):
    """Find a cell the long way: list all rows, and all columns of the row, as Major TOM defines its grid."""
    latitudes = edges(np.pi * RADIUS, 180)
    up = index(latitudes, latitude)
    lowest = latitudes[up + np.argmin(np.abs(latitudes))]
    right = index(edges(2 * np.pi * RADIUS * np.cos(np.radians(lowest)), 360), longitude)
    return f"{abs(up)}{'DU'[int(up >= 0)]}_{abs(right)}{'LR'[int(right >= 0)]}", up, right


def test_cells_are_those_of_the_listed_grid():
    generator = np.random.default_rng(0)
    for latitude, longitude in generator.uniform((-85, -180), (85, 180), (500, 2)):
        cell = find_cell(latitude, longitude)
        assert (cell.name, cell.row, cell.column) == listed_cell(latitude, longitude)


@pytest.mark.parametrize(
    ("latitude", "longitude", "name"),
    [(0.01, 0.01, "0U_0R"), (-0.01, -0.01, "1D_1L"), (0.01, 179.99, "0U_2003R"), (48.1, 11.5, "535U_85R")],
)
def test_rows_count_from_the_equator_and_columns_from_greenwich(latitude, longitude, name):
    assert find_cell(latitude, longitude).name == name
