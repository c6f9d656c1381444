"""Boxes on maps that begin anew after a turn around the Earth, as longitudes do at the antimeridian."""

import numpy as np


def unroll(west: np.ndarray, east: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Shift boxes by whole turns, so that together they cover the shortest range.

    Args:
        west: (n,), western edges.
        east: (n,), eastern edges. They are the smaller numbers if the box crosses the end of the map.
        turn: Width of the map, such as 360 degrees.

    Returns:
        The western and the eastern edges (n,), of which the latter are the larger numbers. Boxes beyond the end of the
        map, turn / 2, continue those before it.
    """
    start = west - np.floor(west / turn + 0.5) * turn
    end = east + (start - west) + np.where(east < west, turn, 0.0)
    order = np.argsort(start)
    reach = np.maximum.accumulate(end[order])  # the eastern end of the first boxes
    gaps = np.append(start[order][1:], start[order][0] + turn) - reach
    cut = len(gaps) - gaps[::-1].argmax()  # of equal gaps the last one, which is at the end of the map
    if cut < len(gaps):
        start[order[:cut]] += turn
        end[order[:cut]] += turn
    return start, end
