import numpy as np
import pytest

from spectralgpt_hf.inference.longitudes import unroll


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(10.25, 11.5)], [(10.25, 11.5)]),
        ([(-20, -10), (10, 20)], [(-20, -10), (10, 20)]),
        ([(179, 180), (-180, -179)], [(179, 180), (180, 181)]),
        ([(-179.5, -179), (179.5, -179.5), (177, 178)], [(180.5, 181), (179.5, 180.5), (177, 178)]),
        ([(190, 191), (170, 171)], [(190, 191), (170, 171)]),
        ([(-180, 180)], [(-180, 180)]),
        ([(-90, -90), (90, 90)], [(-90, -90), (90, 90)]),
    ],
)
def test_boxes_cover_the_shortest_range_in_any_order(boxes, expected):
    for order in (slice(None), slice(None, None, -1)):
        found = np.stack(unroll(*np.array(boxes[order], float).T, 360.0), 1)
        np.testing.assert_array_equal(found, expected[order])


def test_the_turn_of_a_map_may_have_any_unit():
    west, east = unroll(np.array([-20.0, 19.0]), np.array([-19.0, 20.0]), 40.0)
    assert (west.tolist(), east.tolist()) == ([20.0, 19.0], [21.0, 20.0])
