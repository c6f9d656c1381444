import numpy as np
import pytest
import rasterio

from spectralgpt_hf import Band, Sensor
from spectralgpt_hf.modeling.rasters import read_raster
from tests.modeling.other_products import enmap_file, landsat_9_folder
from tests.modeling.products import write_geotiff
from tests.modeling.test_rasters import numbers


CENTRES = [490.0, 560.5, 665.25]


def test_wavelengths_come_from_gdals_imagery_domain(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(3))
    with rasterio.open(path, "r+") as dataset:
        for index, centre in enumerate(CENTRES, 1):
            dataset.update_tags(index, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000}", FWHM_UM="0.01")
    assert read_raster(path, sensor="aviris").band_names == ("490nm", "560.5nm", "665.25nm")


def test_wavelengths_come_from_an_envi_header(tmp_path):
    path = tmp_path / "cube.img"
    pixels = numbers(3)
    with rasterio.open(
        path, "w", driver="ENVI", count=3, height=pixels.shape[1], width=pixels.shape[2], dtype="uint16"
    ) as file:
        file.write(pixels)
    header = path.with_suffix(".hdr")
    header.write_text(
        header.read_text() + "wavelength units = Micrometers\nwavelength = {0.490, 0.5605, 0.66525}\n"
        "fwhm = {0.01, 0.01, 0.01}\nsensor type = AVIRIS\n"
    )
    path.with_suffix(".img.aux.xml").unlink(missing_ok=True)
    assert read_raster(path, sensor="aviris").band_names == ("490nm", "560.5nm", "665.25nm")
    # Unknown to the model until the caller passes `match`.
    assert read_raster(path, match="wavelength", sensor="aviris").band_names == ("B2", "B3", "B4")


def test_damaged_metadata_of_enmap_are_named(tmp_path):
    path = enmap_file(tmp_path).source
    next(tmp_path.glob("*METADATA.XML")).write_text("<level_X>")
    with pytest.raises(ValueError, match=r"METADATA\.XML are damaged"):
        read_raster(path)


def test_unnamed_bands_of_a_stated_sensor_are_its_own_in_order(tmp_path):
    drone = Sensor("drone", (Band("green", 560), Band("red", 668), Band("nir", 842)))
    path = write_geotiff(tmp_path / "field.tif", numbers(3))
    with pytest.warns(UserWarning, match="taken as green, red, nir, in this order"):
        assert read_raster(path, sensor=drone).band_names == ("green", "red", "nir")
    assert read_raster(path).band_names is None


def test_the_scale_of_a_table_is_stated_with_the_result(tmp_path):
    raster = read_raster(landsat_9_folder(tmp_path).source, sensor="landsat-8", resolution=None)
    assert raster.tags["radiometry"] == "Landsat 8/9 OLI: reflectance = stored x 2.75e-05 + -0.2"
    assert raster.tags["scale"] == "0.275"
    assert raster.offsets == (-2000.0,) * 7


def test_level_1_of_landsat_has_no_scale_that_a_table_could_state(tmp_path):
    stored = np.full((1, 8, 8), 9000, np.uint16)
    path = write_geotiff(tmp_path / "LC08_L1TP_193026_20220316_20220318_02_T1_B5.TIF", stored, 30)
    raster = read_raster(path, expected="landsat-8", resolution=None)
    assert raster.band_names == ("B5",)
    assert raster.offsets is None
    assert raster.pixels.max() == 9000


def test_reflectances_in_floats_are_left_as_they_are(tmp_path):
    stored = np.full((7, 8, 8), 0.25, np.float32)
    names = ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]
    path = write_geotiff(tmp_path / "stack.tif", stored, 30, names=names)
    np.testing.assert_array_equal(read_raster(path, sensor="landsat-8", resolution=None).pixels, stored)


def test_a_map_that_carries_the_tags_of_its_sensor_reads(tmp_path):
    path = write_geotiff(tmp_path / "map.tif", np.ones((1, 8, 8), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(sensor="Landsat 8/9 OLI")
    assert read_raster(path).band_names is None
