import math

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import from_origin

from spectralgpt_hf.inference.maps import (
    CHANGE_COLOUR,
    COMPARISON_COLOURS,
    ClassArea,
    change_overlay,
    class_areas,
    class_legend,
    class_map,
    class_map_with_legend,
)
from spectralgpt_hf.modeling.post_processing import class_colours


NAMES = ["water", "forest", "fields"]


@pytest.fixture
def labels():
    labels = np.zeros((40, 60), np.uint8)
    labels[:10] = 1
    labels[:, 50:] = 2
    labels[39] = 255
    return labels


def test_a_class_map_shows_classes_and_leaves_the_rest_transparent(labels):
    valid = np.ones(labels.shape, bool)
    valid[:, 0] = False
    colours = class_colours(NAMES)
    picture = np.asarray(class_map(labels, colours, valid, opacity=0.5))
    for number in range(3):
        shown = picture[(labels == number) & valid]
        assert (shown == [*colours[number], 128]).all()
    assert (picture[(labels == 255) | ~valid, 3] == 0).all()


def test_the_areas_of_a_utm_map_are_those_of_its_pixels(labels):
    areas = class_areas(labels, NAMES, "EPSG:32633", from_origin(500_000, 5_500_000, 10, 10))
    assert [area.pixels for area in areas] == [29 * 50, 10 * 50, 39 * 10]
    assert sum(area.share for area in areas) == pytest.approx(1)
    for area in areas:
        # At the central meridian UTM draws lengths at 0.9996 of what they are on the ground.
        assert area.hectares == pytest.approx(area.pixels / 100 / 0.9996**2, rel=1e-4)


def test_areas_are_measured_on_the_ground_where_the_grid_is_in_degrees_or_stretched():
    labels = np.zeros((200, 100), np.uint8)
    labels[100:] = 1
    degrees = class_areas(labels, ["north", "south"], "EPSG:4326", from_origin(10, 61, 0.01, 0.01))
    radius, rows = 6_371_007.2, np.radians([61, 60, 59])  # of the sphere with the Earth's surface
    expected = radius**2 * math.radians(1) * -np.diff(np.sin(rows)) / 10_000
    np.testing.assert_allclose([area.hectares for area in degrees], expected, rtol=7e-3)  # the Earth is flattened
    assert degrees[0].hectares < degrees[1].hectares

    stretched = class_areas(labels, ["north", "south"], "EPSG:3857", from_origin(1_000_000, 8_400_000, 100, 100))
    assert stretched[0].hectares < 0.27 * labels.size / 2  # at 60 degrees a hectare is drawn as four


def test_areas_across_the_date_line_are_not_those_of_the_whole_earth():
    (area,) = class_areas(np.zeros((100, 100), np.uint8), ["sea"], "EPSG:4326", from_origin(179.95, 1, 0.001, 0.001))
    assert area.hectares == pytest.approx(0.1**2 * 111_320 * 110_574 / 10_000, rel=0.01)


def test_without_georeference_only_pixels_are_counted(labels):
    areas = class_areas(labels, NAMES)
    assert [area.hectares for area in areas] == [None, None, None]
    assert areas[0].text == "1,450 px"


@pytest.mark.parametrize(
    ("hectares", "text"),
    [(0, "0 m²"), (0.0123, "123 m²"), (1, "1.00 ha"), (23.456, "23.5 ha"), (123, "1.23 km²"), (1.2e7, "120,000 km²")],
)
def test_areas_have_the_unit_that_gives_them_a_few_digits(hectares, text):
    assert ClassArea("water", 1, 1.0, hectares).text == text


def test_areas_are_written_in_hectares_and_from_a_hundred_of_them_in_square_kilometres(labels):
    transform = from_origin(500_000, 5_500_000, 10, 10)
    assert class_areas(labels, NAMES, "EPSG:32633", transform)[1].text == "5.00 ha"
    assert class_areas(labels, NAMES, "EPSG:32633", from_origin(5e5, 5.5e6, 100, 100))[1].text == "5.00 km²"


def test_the_legend_lists_the_classes_that_occur_the_largest_first(labels):
    colours = class_colours([*NAMES, "snow"])
    areas = class_areas(labels, [*NAMES, "snow"])
    legend = np.asarray(class_legend(areas, colours))
    swatches = [np.argwhere((legend == colour).all(axis=2)) for colour in colours]
    assert len(swatches[3]) == 0
    tops = [swatch[:, 0].min() for swatch in swatches[:3]]
    assert tops[0] < tops[1] < tops[2]


def test_the_sheet_holds_the_map_magnified_and_the_legend(labels):
    sheet = class_map_with_legend(labels, NAMES)
    scale = 9  # 60 px to at least 512
    assert sheet.height == 40 * scale
    magnified = class_map(labels, class_colours(NAMES)).resize((60 * scale, 40 * scale), Image.Resampling.NEAREST)
    white = Image.new("RGB", magnified.size, "white")
    white.paste(magnified, (0, 0), magnified)
    assert np.array_equal(np.asarray(sheet)[:, : 60 * scale], np.asarray(white))


def test_change_is_tinted_and_outlined_and_the_rest_left_as_it_is():
    pixels = np.tile(np.linspace(100, 900, 30), (3, 30, 1))
    bands, changed = ["B4", "B3", "B2"], np.zeros((30, 30), np.uint8)
    changed[10:20, 10:20] = 1
    plain = np.asarray(change_overlay(pixels, bands, np.zeros_like(changed))).astype(int)
    drawn = np.asarray(change_overlay(pixels, bands, changed)).astype(int)
    assert np.array_equal(drawn[changed == 0], plain[changed == 0])
    assert (drawn[10, 10:20] == CHANGE_COLOUR).all()
    np.testing.assert_allclose(drawn[15, 15], (plain[15, 15] + CHANGE_COLOUR) / 2, atol=1)


def test_change_beside_the_truth_tells_found_false_and_missed_apart():
    pixels, bands = np.ones((3, 6, 6)), ["B4", "B3", "B2"]
    changed, truth = np.zeros((6, 6), int), np.zeros((6, 6), int)
    changed[0:2, 0:2] = truth[0:2, 0:2] = 1
    changed[4:6, 0:2] = 1
    truth[0:2, 4:6] = 1
    changed[4:6, 4:6], truth[4:6, 4:6] = 1, 255
    picture = np.asarray(change_overlay(pixels, bands, changed, truth, opacity=1))
    for pixel, case in (((0, 0), "found"), ((5, 0), "false alarm"), ((0, 5), "missed")):
        assert tuple(picture[pixel]) == COMPARISON_COLOURS[case]
    assert tuple(picture[5, 5]) == tuple(picture[3, 3])  # the truth is unknown there
