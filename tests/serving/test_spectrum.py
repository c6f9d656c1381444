"""The drawing of a pixel's spectra: what stands where, what is marked, and what is said aloud."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from spectralgpt_hf.modeling.bands import BANDS
from spectralgpt_hf.serving.spectrum import draw_spectrum


L2A = [band for band in BANDS if band != "B10"]


def points(svg, kind):
    drawn = re.search(rf'<polyline class="{kind}" points="([^"]*)"', svg)
    return np.array([[float(part) for part in pair.split(",")] for pair in drawn[1].split()])


def test_bands_stand_in_the_order_of_their_wavelengths_and_higher_values_higher():
    order = np.random.default_rng(0).permutation(12)
    values, visible = np.linspace(0.1, 0.4, 12), np.ones(12, bool)
    svg = draw_spectrum(values, values / 2, visible, L2A, "here")
    shuffled = draw_spectrum(values[order], values[order] / 2, visible, [L2A[i] for i in order], "here")
    assert points(shuffled, "true").tolist() == points(svg, "true").tolist()
    assert (np.diff(points(svg, "true")[:, 0]) > 0).all()
    assert (points(svg, "true")[:, 1] < points(svg, "made")[:, 1]).all()
    labels = re.findall(r"<text[^>]*>(B\d+A?)</text>", shuffled)
    assert labels == sorted(L2A, key=lambda band: BANDS[band].wavelength_s2a)


def test_bands_that_the_model_saw_are_marked_and_named():
    visible = np.array([band in ("B2", "B12") for band in L2A])
    svg = draw_spectrum(np.full(12, 0.2), np.full(12, 0.3), visible, L2A, "row 1, column 2")
    root = ElementTree.fromstring(svg)
    assert "at row 1, column 2" in root.attrib["aria-label"]
    assert root.attrib["aria-label"].endswith(
        "at row 1, column 2, true and reconstructed. Visible to the model: B2, B12."
    )
    circles = [circle for circle in root.iter("circle") if list(circle)]
    kinds = [circle.attrib["class"] for circle in circles]
    assert (kinds.count("true dot"), kinds.count("true ring"), kinds.count("made ring")) == (2, 10, 10)
    assert "B2: 0.200, visible" in [circle[0].text for circle in circles]
    assert len(re.findall('class="seen"', svg)) == 2


@pytest.mark.parametrize("scale", [0.0, 1e-4, 0.03, 0.4, 1.8, -0.2])
def test_every_value_lies_inside_the_drawing(scale):
    values = np.linspace(0, scale, 12)
    svg = draw_spectrum(values, 2 * values, np.zeros(12, bool), L2A, "here")
    for kind in ("true", "made"):
        assert ((points(svg, kind)[:, 1] >= 0) & (points(svg, kind)[:, 1] <= 360)).all()


def test_pixels_without_data_have_no_points():
    svg = draw_spectrum(np.full(12, np.nan), np.full(12, 0.2), np.zeros(12, bool), L2A, "here")
    assert "nan" not in svg
