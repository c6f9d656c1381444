"""The page of checkpoints for other sensors: what it reads, refuses, matches, shows and offers."""

import re
import warnings

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.assets import SAMPLE, find_task_checkpoints
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.modeling.untrusted import NamedBytes
from spectralgpt_hf.serving import page
from spectralgpt_hf.serving.actions import Actions
from spectralgpt_hf.serving.tasks import Models
from tests.modeling.products import write_geotiff
from tests.serving.checkpoints import save_checkpoint
from tests.serving.other_sensors import (
    DRONE,
    LANDSAT,
    SPECTROMETER,
    landsat_file,
    save_checkpoints,
    spectrometer_file,
)


@pytest.fixture(scope="module")
def landsat(tmp_path_factory) -> Actions:
    return Actions(Models(*save_checkpoints(tmp_path_factory.mktemp("landsat"), LANDSAT)))


def test_a_landsat_page_does_everything_with_a_landsat_file(landsat, tmp_path):
    loaded = landsat.load(str(landsat_file(tmp_path)))
    upload = loaded.upload
    assert upload.band_names == tuple(LANDSAT["bands"])
    assert upload.shape == (96, 96)  # in its own pixels of 30 m
    assert "Landsat 8/9 OLI: reflectance = stored x 2.75e-05 + -0.2" in loaded.facts
    assert ("True colour (B4, B3, B2)", "True colour") in loaded.composites.choices
    with rasterio.open(SAMPLE) as sample:
        np.testing.assert_allclose(upload.raster.pixels[3], sample.read(4)[::3, ::3][:96, :96], atol=0.2)
    result, table = landsat.reconstruct(upload, 50, "Tokens", 0)
    assert result.reconstructed.shape == (7, 96, 96)
    assert "SpectralGPT" in table
    svg = landsat.spectrum(upload, result, (5, 6))
    assert re.findall(r"<text[^>]*>(B\d)</text>", svg) == LANDSAT["bands"]
    assert "865" in svg
    assert landsat.look_at_reconstruction(upload, result, "Moisture")[0].size == (480, 480)
    labels, _ = landsat.classify(upload, (40, 40), "True colour")
    assert sum(labels.values()) == pytest.approx(1, abs=1e-3)
    classes, _, legend = landsat.segment(upload, "True colour")
    assert classes.shape == (96, 96)
    assert "ha<" in legend or "km²<" in legend
    changed, picture, _ = landsat.compare(upload, upload, 0.5, "True colour")
    assert changed.shape == (96, 96)
    assert picture.size == (480, 480)
    features, _ = landsat.embed(upload)
    assert features.shape == (48, 12, 12)


def test_a_file_of_another_sensor_is_refused_or_matched_by_wavelength_with_a_report(landsat):
    with pytest.raises(ValueError, match=r"sample\.tif: an image of Sentinel-2, but expected Landsat 8/9 OLI"):
        landsat.load(str(SAMPLE))
    loaded = landsat.load(str(SAMPLE), True)
    assert "An image of Sentinel-2. Bands are matched by wavelength: B1 by B1 (442.7 nm)" in loaded.facts
    assert "B5 by B8A (864.7 nm)" in loaded.facts
    moved = landsat.move_to(str(SAMPLE), 3, 4, True)
    assert moved.upload.match == "wavelength"
    _, facts, _ = landsat.load_second(str(SAMPLE), loaded.upload, "True colour")
    assert "matched by wavelength" in facts


def test_the_name_of_an_upload_identifies_its_sensor_although_only_its_bytes_are_read(landsat, tmp_path):
    content = landsat_file(tmp_path).read_bytes()
    assert read_raster(NamedBytes(content, "/a/LC09_L2SP_x_SR.TIF"), expected="landsat-8").tags["source"] == (
        "LC09_L2SP_x_SR.TIF"
    )
    pixels = np.full((4, 16, 16), 900, np.uint16)
    path = write_geotiff(tmp_path / "20220316_101112_1035_3B_AnalyticMS_SR.tif", pixels, 3)
    with pytest.raises(ValueError, match="an image of PlanetScope, 4 bands, but expected Landsat"):
        landsat.load(str(path))


def test_the_page_describes_the_model_of_its_sensor(landsat, tmp_path):
    from spectralgpt_hf.serving.app import build

    models = landsat._models
    layout = str(build(models, landsat).get_config_file())
    assert "image of Landsat 8/9 OLI" in layout
    assert "GeoTIFF of Landsat 8/9 OLI, all bands" in layout
    assert "example-" not in layout
    assert "Sen1Floods11" not in layout
    about = page.about(models)
    assert "8 × 8 pixels (240 × 240 m)" in about
    assert "4 × 4 positions with 3 tokens each, 48 in all" in about
    drone = Models(save_checkpoint("features", tmp_path, **DRONE))
    assert "8 × 8 pixels in 3 neighbouring bands" in page.about(drone)


def test_a_drone_with_two_bands_has_a_page_without_true_colour(tmp_path):
    act = Actions(Models(save_checkpoint("features", tmp_path / "drone", **DRONE)))
    pixels = np.random.default_rng(0).integers(500, 3000, (2, 40, 40)).astype(np.uint16)
    loaded = act.load(str(write_geotiff(tmp_path / "field.tif", pixels, 0.1, names=DRONE["bands"])))
    ((label, name),) = loaded.composites.choices
    assert label == "Longest, middle and shortest wavelength (nir, nir, edge)"
    assert act.look(loaded.upload, loaded.pixel, name).picture.size == (480, 480)


def test_a_spectrometer_of_202_bands_has_an_axis_of_wavelength(tmp_path):
    act = Actions(Models(save_checkpoint("features", tmp_path / "model", **SPECTROMETER)))
    loaded = act.load(str(spectrometer_file(tmp_path)))
    assert len(loaded.upload.band_names) == 202
    result, _ = act.reconstruct(loaded.upload, 90, "Tokens", 0)
    svg = act.spectrum(loaded.upload, result, (3, 3))
    assert re.findall(r'text-anchor="middle">(\d+)</text>', svg) == ["500", "1000", "1500", "2000"]
    assert act.look_at_reconstruction(loaded.upload, result, "True colour")[0] is not None


def test_a_fine_tuned_checkpoint_of_another_sensor_is_left_out_with_a_warning(tmp_path):
    pretrained = save_checkpoint("features", tmp_path / "features", **LANDSAT)
    with pytest.warns(UserWarning, match="expects images of sentinel-2, but features those of landsat-8: left out"):
        models = Models(pretrained, segmentation=save_checkpoint("segmentation", tmp_path / "segmentation"))
    assert models.pipelines == {}


def test_an_embedded_checkpoint_of_another_sensor_is_left_out_silently(tmp_path):
    pretrained = save_checkpoint("features", tmp_path / "features", **LANDSAT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert not Models(pretrained, **find_task_checkpoints()).pipelines
