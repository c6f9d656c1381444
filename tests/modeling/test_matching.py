import json

import numpy as np
import pytest
import torch

from spectralgpt_hf import Band, Sensor, SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import L2A_BANDS, SENTINEL_2
from spectralgpt_hf.modeling.chips import open_chips
from spectralgpt_hf.modeling.matching import TOLERANCE, Matching
from spectralgpt_hf.modeling.rasters import Raster, read_raster, write_raster
from spectralgpt_hf.modeling.sensors import SENSORS
from tests.modeling.other_products import TEN_PRODUCTS, landsat_9_folder, planetscope_8_file, reflectance


# Which band of each sensor serves Sentinel-2's, by the distance of their centres.
SERVED = {
    "landsat-8": "B1:B1 B2:B2 B3:B3 B4:B4 B8:B5 B8A:B5 B11:B6 B12:B7",
    "landsat-7": "B2:B1 B3:B2 B4:B3 B8:B4 B8A:B4 B11:B5 B12:B7",
    "hls-s30": "B1:B1 B2:B2 B3:B3 B4:B4 B5:B5 B6:B6 B7:B7 B8:B8 B8A:B8A B9:B9 B10:B10 B11:B11 B12:B12",
    "planetscope-4": "B2:blue B3:green B4:red B8:nir B8A:nir",
    "planetscope-8": "B1:coastal_blue B2:blue B3:green B4:red B5:rededge B8:nir B8A:nir",
}


@pytest.mark.parametrize("write", TEN_PRODUCTS, ids=lambda write: write.__name__)
def test_a_product_of_another_sensor_serves_by_wavelength_with_a_report(tmp_path, write):
    product = write(tmp_path)
    raster = read_raster(product.source, match="wavelength", resolution=None)
    sensor, served = SENSORS[product.sensor], json.loads(raster.tags["matched_bands"])
    assert raster.tags["source_sensor"] == str(sensor)
    assert list(served) == [*raster.band_names] == [band for band in SENTINEL_2.band_names if band in raster.band_names]
    if product.sensor in SERVED:
        assert (
            " ".join(f"{ours}:{theirs.partition(' ')[0]}" for ours, theirs in served.items()) == SERVED[product.sensor]
        )
    own = read_raster(product.source, expected=product.sensor, resolution=None)
    for ours, theirs, pixels in zip(served, served.values(), raster.pixels):
        name, centre = theirs.removesuffix(" nm)").split(" (")
        assert abs(float(centre) - SENTINEL_2.band(ours).wavelength) <= TOLERANCE * SENTINEL_2.band(ours).wavelength
        np.testing.assert_array_equal(pixels, own.pixels[own.band_names.index(name)])


@pytest.mark.parametrize("write", TEN_PRODUCTS, ids=lambda write: write.__name__)
def test_what_a_sensor_lacks_is_masked_by_default(tmp_path, write):
    processor = SpectralGPTImageProcessor(patch_size=8)
    batch, (report,) = processor(write(tmp_path).source, match="wavelength", report=True)
    lacking = [band for band in L2A_BANDS if band not in report.matched]
    assert report.filled.keys() == set(lacking)
    assert torch.isfinite(batch["pixel_values"]).all()
    groups = [L2A_BANDS[start : start + 3] for start in range(0, 12, 3)]
    masked = [all(band in lacking for band in group) for group in groups]
    if any(masked):
        tokens = batch["attention_mask"].view(4, -1)
        assert [not group.any() for group in tokens] == masked
    else:
        assert "attention_mask" not in batch


def test_another_policy_for_missing_bands_wins_over_the_mask(tmp_path):
    processor = SpectralGPTImageProcessor(missing_bands="mean")
    assert "attention_mask" not in processor(landsat_9_folder(tmp_path).source, match="wavelength")


def test_a_drone_camera_serves_an_array_by_wavelength():
    drone = Sensor("drone", (Band("green", 560, 32), Band("red", 668, 14), Band("nir", 842, 57)))
    pixels = np.stack([1e4 * reflectance(number) for number in range(3)])
    with pytest.raises(ValueError, match="an image of drone, but expected Sentinel-2"):
        SpectralGPTImageProcessor()(pixels, sensor=drone)
    _, (report,) = SpectralGPTImageProcessor()(pixels, sensor=drone, match="wavelength", report=True)
    assert report.matched == {
        "B3": "green (560 nm)",
        "B4": "red (668 nm)",
        "B8": "nir (842 nm)",
        "B8A": "nir (842 nm)",
    }
    named, (again,) = SpectralGPTImageProcessor()(
        pixels, band_names=["560nm", "668 nm", "0.842 um"], match="wavelength", report=True
    )
    assert list(again.matched) == list(report.matched)
    assert "B3" in again.band_names
    assert torch.isfinite(named["pixel_values"]).all()


def test_a_wavelength_is_a_band_but_no_sentinel_2_band():
    with pytest.raises(ValueError, match=r"found 560nm 668nm 842nm.*`match`"):
        SpectralGPTImageProcessor()(np.ones((3, 16, 16)), band_names=["560nm", "668nm", "842nm"])


def test_bands_without_wavelengths_cannot_be_matched(tmp_path):
    matching = Matching.of(match="wavelength", sensor=Sensor("camera", (Band("a"), Band("b"))))
    with pytest.raises(ValueError, match=r"x: the wavelengths of its bands \(a, b\) are unknown"):
        matching.serve(matching.sensor, ["a", "b"], "x")


def test_nothing_near_enough_is_an_error_with_the_wavelengths():
    radar = Sensor("thermal", (Band("a", 10_895.0),))
    with pytest.raises(ValueError, match=r"no band of thermal \(10895 nm\) is within 4% of the wavelength"):
        Matching.of(match="wavelength", sensor=radar).serve(radar, ["a"], "x")


def test_a_match_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="`match` must be 'wavelength' or None, got 'nearest'"):
        read_raster("x.tif", match="nearest")


def test_a_file_of_the_same_sensor_is_not_touched_by_match(tmp_path):
    product = planetscope_8_file(tmp_path)
    options = {"expected": "planetscope-8", "resolution": None}
    plain, matched = (read_raster(product.source, match=match, **options) for match in (None, "wavelength"))
    assert plain.band_names == matched.band_names == SENSORS["planetscope-8"].band_names
    np.testing.assert_array_equal(plain.pixels, matched.pixels)
    assert "matched_bands" not in matched.tags


def test_a_raster_remembers_its_sensor_and_a_matched_one_its_sources(tmp_path):
    product = landsat_9_folder(tmp_path)
    own = read_raster(product.source, sensor="landsat-9")
    assert own.band_names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7")
    processor = SpectralGPTImageProcessor(missing_bands="mask")
    with pytest.raises(ValueError, match="an image of Landsat"):
        processor(own)
    _, (direct,) = processor(own, match="wavelength", report=True)
    _, (matched,) = processor(read_raster(product.source, match="wavelength"), report=True)
    assert direct.matched == matched.matched
    assert direct.matched["B8A"] == "B5 (864.7 nm)"
    georeference = {"crs": own.crs, "transform": own.transform}
    write_raster(tmp_path / "own.tif", own.pixels, **georeference, band_names=own.band_names, tags=own.tags)
    with pytest.raises(ValueError, match="an image of Landsat 8/9 OLI"):
        read_raster(tmp_path / "own.tif")
    assert read_raster(tmp_path / "own.tif", expected="landsat-8", resolution=None).band_names == own.band_names


def test_statistics_are_measured_on_the_bands_that_serve(tmp_path):
    processor = SpectralGPTImageProcessor()
    statistics = processor.measure_statistics(landsat_9_folder(tmp_path).source, match="wavelength")
    at = statistics["bands"].index
    assert statistics["mean"][at("B8A")] == pytest.approx(1e4 * reflectance(4).mean(), rel=0.01)


def test_what_the_reader_found_in_each_band_follows_the_bands_that_are_matched_afterwards():
    names = SENSORS["landsat-8"].band_names
    pixels = np.random.default_rng(0).integers(1, 3000, (len(names), 16, 16)).astype(np.float32)
    saturated = np.zeros(pixels.shape, bool)
    saturated[names.index("B5"), 0, 0] = True
    pixels[saturated] = 60000
    offsets = tuple(float(-number) for number in range(len(names)))
    raster = Raster(pixels, names, np.ones((16, 16), bool), None, None, {}, offsets, saturated, sensor="landsat-8")
    (chip,) = open_chips(raster, L2A_BANDS, matching=Matching(match="wavelength"))
    assert dict(zip(chip.band_names, chip.offsets))["B8A"] == offsets[names.index("B5")]
    assert len(chip.offsets) == len(chip.band_names) == len(chip.saturated)
    assert torch.equal(chip.saturated, chip.pixels == 60000)
