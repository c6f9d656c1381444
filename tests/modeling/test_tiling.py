import numpy as np
import pytest

from spectralgpt_hf.modeling.tiling import Blend, Box, TileGrid, runs


def cover(height=100, width=70, size=32, overlap=0.5, cell=1, step=8, shift=0):
    return TileGrid.cover(height, width, size, overlap, cell, step, shift)


def test_tiles_cover_the_scene_and_the_last_ones_are_moved_inwards():
    grid = cover()
    assert grid.tops == [0, 16, 32, 48, 64, 68]
    assert grid.lefts == [0, 16, 32, 38]
    assert grid.shape == (100, 70)


def test_tiles_of_a_map_of_cells_start_at_whole_cells():
    grid = cover(cell=8)
    assert grid.tops == [0, 16, 32, 48, 64, 72]
    assert grid.shape == (13, 9)


def test_a_shift_moves_all_tiles_but_the_first_and_the_last():
    assert cover(shift=4).lefts == [0, 12, 28, 38]


def test_a_scene_smaller_than_a_tile_has_one_tile_and_keeps_its_size():
    grid = cover(20, 9)
    assert (grid.tops, grid.lefts, grid.shape) == ([0], [0], (20, 9))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"size": 30}, "multiple of 8 px"),
        ({"size": 32, "cell": 10}, "and of `stride`"),
        ({"overlap": 1.0}, "overlap of 0 or more"),
        ({"overlap": -0.1}, "overlap of 0 or more"),
        ({"shift": -8}, "shift of 0 or more"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        cover(**arguments)


def test_strips_and_panels_cut_an_area_into_parts_without_gap_or_overlap():
    grid, area = cover(), Box(5, 7, 66, 93)
    covered = np.zeros(grid.shape, int)
    for strip in grid.strips(area, 20):
        covered[strip.box.top : strip.box.bottom, strip.box.left : strip.box.right] += 1
    assert (covered[7:93, 5:66] == 1).all()
    assert covered.sum() == 86 * 61


def blended(grid, values, strips):
    """Blend tiles cut from `values` (K, height, width), only those that reach into the strips."""
    result = np.full(values.shape, np.nan, np.float32)
    for run in runs(strips):
        blend = Blend(len(values), grid.cells, run[0].box)
        for row in grid.rows_of(run):
            for column in grid.columns_of(run[0]):
                top, left = grid.tops[row], grid.lefts[column]
                noise = np.random.default_rng((row, column)).normal(size=(len(values), grid.cells, grid.cells))
                tile = values[:, top : top + grid.size, left : left + grid.size] + noise.astype(np.float32)
                blend.add(tile, np.ones((grid.cells, grid.cells), bool), top, left)
            strip = next((strip for strip in run if strip.row == row), None)
            if strip is not None:
                box = strip.box
                part, _ = blend.take(box.bottom - box.top)
                result[:, box.top : box.bottom, box.left : box.right] = part
    return result


def test_blending_does_not_depend_on_panels_areas_or_which_strips_are_left():
    grid, values = cover(), np.random.default_rng(0).normal(size=(2, 100, 70)).astype(np.float32)
    whole = blended(grid, values, grid.strips(Box(0, 0, 70, 100), 70))
    assert np.isfinite(whole).all()
    panels = blended(grid, values, grid.strips(Box(0, 0, 70, 100), 9))
    np.testing.assert_array_equal(panels, whole)
    area = blended(grid, values, grid.strips(Box(11, 23, 50, 77), 70))
    np.testing.assert_array_equal(area[:, 23:77, 11:50], whole[:, 23:77, 11:50])
    strips = grid.strips(Box(0, 0, 70, 100), 70)
    left = blended(grid, values, [strips[1], strips[2], strips[5]])
    rows = [row for strip in (strips[1], strips[2], strips[5]) for row in range(strip.box.top, strip.box.bottom)]
    np.testing.assert_array_equal(left[:, rows], whole[:, rows])


def test_overlapping_tiles_are_averaged_by_their_distance_from_the_edge():
    blend = Blend(1, 8, Box(0, 0, 12, 8))
    everywhere = np.ones((8, 8), bool)
    blend.add(np.zeros((1, 8, 8), np.float32), everywhere, 0, 0)
    blend.add(np.ones((1, 8, 8), np.float32), everywhere, 0, 4)
    values, valid = blend.take(8)
    assert valid.all()
    np.testing.assert_array_equal(values[0, :, :4], 0)
    np.testing.assert_array_equal(values[0, :, 8:], 1)
    between = np.sin(np.pi * (np.arange(4) + 0.5) / 8) ** 2
    np.testing.assert_allclose(values[0, 0, 4:8], between, rtol=1e-5)


def test_what_a_tile_says_where_it_has_no_data_does_not_count():
    blend = Blend(1, 8, Box(0, 0, 8, 8))
    valid = np.ones((8, 8), bool)
    valid[:, 4:] = False
    blend.add(np.where(valid, 3, np.nan).astype(np.float32)[None], valid, 0, 0)
    values, found = blend.take(8)
    np.testing.assert_array_equal(found, valid)
    np.testing.assert_allclose(values[0][valid], 3)
