import numpy as np
import pytest
from PIL import Image

from spectralgpt_hf.inference.pictures import (
    FALSE_COLOUR,
    GAMMA,
    composite,
    feature_colours,
    reconstruction_panel,
    to_image,
)
from spectralgpt_hf.inference.reconstruction import Reconstruction
from spectralgpt_hf.modeling.bands import L2A_BANDS


def ramps():
    """Four bands, each a ramp along the columns with a scale and an offset of its own."""
    ramp = np.tile(np.arange(101.0), (50, 1))
    return np.stack([ramp * 10, ramp * 20 + 5, ramp * 30 - 7, 3000 - ramp]), ["B2", "B3", "B4", "B8"]


def test_a_composite_runs_from_the_2nd_to_the_98th_percentile_of_each_band():
    colours = composite(*ramps(), ("B8", "B4", "B3"))
    np.testing.assert_allclose(colours[0, :, 1], np.clip((np.arange(101) - 2) / 96, 0, 1), atol=1e-6)
    np.testing.assert_allclose(colours[..., 2], colours[..., 1], atol=1e-6)


def test_true_colour_has_one_stretch_for_its_bands():
    linear = composite(*ramps()) ** GAMMA
    # The ramps rise by 30, 20 and 10 a column: the steepest decides.
    for channel, slope in enumerate((30, 20, 10)):
        expected = np.clip((np.arange(101) - 2) * slope / (96 * 30), 0, 1)
        np.testing.assert_allclose(linear[0, :, channel], expected, atol=1e-6)


def test_false_colour_shows_the_near_infrared_as_red():
    pixels, bands = ramps()
    false = composite(pixels, bands, FALSE_COLOUR)
    np.testing.assert_allclose(false[..., 0], 1 - false[..., 1], atol=1e-6)


def test_pixels_without_data_are_transparent_and_do_not_stretch_the_others():
    pixels, bands = ramps()
    valid = np.ones(pixels.shape[1:], bool)
    valid[:10] = False
    filled = np.where(valid, pixels, 65535)
    colours = composite(filled, bands, valid=valid)
    np.testing.assert_allclose(colours[10:], composite(pixels, bands)[10:], atol=1e-6)
    picture = np.asarray(to_image(colours, valid))
    assert (picture[:10] == 0).all()
    assert (picture[10:, :, 3] == 255).all()


def test_a_band_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="needs B4"):
        composite(np.zeros((2, 4, 4)), ["B3", "B2"])


def test_feature_colours_are_the_principal_components_whatever_the_sign_of_the_solver():
    rows, columns = np.mgrid[:20, :30] / 20
    strong, weak = np.array([0.8, 0.6, 0.0, 0.0]), np.array([0.0, 0.0, -1.0, 0.0])
    noise = np.random.default_rng(0).normal(size=(4, 20, 30)) * 1e-3
    features = strong[:, None, None] * columns * 10 + weak[:, None, None] * rows + noise
    colours = feature_colours(features)
    assert colours.shape == (20, 30, 3)
    # Red grows with the columns; green falls with the rows, because its largest weight is made positive.
    assert np.corrcoef(colours[..., 0].ravel(), columns.ravel())[0, 1] > 0.99
    assert np.corrcoef(colours[..., 1].ravel(), rows.ravel())[0, 1] < -0.99
    np.testing.assert_allclose(feature_colours(features[:, ::-1]), colours[::-1], atol=1e-6)


def test_patches_without_data_do_not_change_the_colours_of_the_features():
    features = np.random.default_rng(0).normal(size=(5, 8, 8))
    valid = np.ones((8, 8), bool)
    valid[:, 5:] = False
    poisoned = np.where(valid, features, 1e6)
    colours = feature_colours(poisoned, valid)
    np.testing.assert_allclose(colours[:, :5], feature_colours(features[:, :, :5]), atol=1e-6)
    assert (colours[:, 5:] == 0).all()
    with pytest.raises(ValueError, match="at least one patch position"):
        feature_colours(features, np.zeros((8, 8), bool))


def coloured(picture, colour, tolerance=40):
    """Return the pixels of a picture near a colour."""
    return (np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour) < tolerance).all(axis=2)


def test_the_reconstruction_panel_hides_what_the_model_did_not_see(tmp_path):
    pytest.importorskip("matplotlib")
    original = np.random.default_rng(0).random((12, 64, 64))
    nothing, everything = np.zeros(original.shape, bool), np.ones(original.shape, bool)
    panels = []
    for masked in (nothing, everything):
        panel = reconstruction_panel(
            Reconstruction(original, masked, original), (original, original), L2A_BANDS, path=tmp_path / "panel.png"
        )
        assert np.array_equal(np.asarray(Image.open(tmp_path / "panel.png")), np.asarray(panel))
        panels.append(panel)
    grey = [coloured(panel, round(0.12 * 255), 3).mean() for panel in panels]
    assert grey[0] < 0.01
    assert grey[1] > 0.2  # two of six images
    marked = reconstruction_panel(
        Reconstruction(original, nothing, original), (original, original), L2A_BANDS, [("field", 5, 9)], title="Chip"
    )
    assert marked.size == (1500, 820)
