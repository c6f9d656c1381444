import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.modeling.bands import BANDS, EUROSAT_FILE_BANDS, L1C_BANDS, L2A_BANDS, SEGMUNICH_BANDS
from spectralgpt_hf.modeling.rasters import open_raster, read_raster, write_raster
from tests.modeling.products import ORIGIN, SIDE, file_name, stored_band, write_geotiff, write_safe, zip_folder


def numbers(count, height=16, width=16, dtype=np.uint16):
    """Return values that are all different and nowhere 0."""
    return (1 + np.arange(count * height * width).reshape(count, height, width)).astype(dtype)


def bilinear(values, resolution, origin, target_origin, shape):
    """Interpolate a band to 10 m between pixel centres, independently of GDAL."""

    def centres(count, size, start, sign):
        return start + sign * size * (np.arange(count) + 0.5)

    height, width = shape
    x = np.interp(
        centres(width, 10, target_origin[0], 1),
        centres(values.shape[1], resolution, origin[0], 1),
        np.arange(values.shape[1]),
    )
    y = np.interp(
        -centres(height, 10, target_origin[1], -1),
        -centres(values.shape[0], resolution, origin[1], -1),
        np.arange(values.shape[0]),
    )
    columns = np.array([np.interp(x, np.arange(values.shape[1]), row) for row in values])
    return np.array([np.interp(y, np.arange(values.shape[0]), column) for column in columns.T]).T


# Real files


def test_a_real_chip_reads_pixel_by_pixel_and_says_what_its_bands_were_taken_for(shared_data):
    for level, bands in (("L1C", L1C_BANDS), ("L2A", L2A_BANDS)):
        path = shared_data / "chips_worldwide" / level / "38D_378R_2_3.tif"
        with rasterio.open(path) as dataset:
            expected = dataset.read()
        with pytest.warns(UserWarning, match=f"{len(bands)} bands without names: taken as B1, B2, .*EuroSAT"):
            raster = read_raster(path)
        assert raster.band_names == bands
        assert raster.pixels.dtype == np.int16
        np.testing.assert_array_equal(raster.pixels, expected)
        assert (raster.crs, raster.transform) == (dataset.crs, dataset.transform)


def test_bands_come_in_the_order_asked_for_wherever_the_file_stores_them(tmp_path, shared_data):
    with rasterio.open(shared_data / "scene_germany" / "germany_2017-02-16_L1C.tif") as dataset:
        pixels = dataset.read(window=Window(100, 200, 64, 48))
    order = [7, 2, 12, 0, 9, 4, 1, 11, 3, 10, 6, 5, 8]
    path = write_geotiff(tmp_path / "shuffled.tif", pixels[order], names=[file_name(L1C_BANDS[i]) for i in order])
    raster = read_raster(path, bands=L2A_BANDS)
    np.testing.assert_array_equal(raster.pixels, pixels[[i for i, band in enumerate(L1C_BANDS) if band != "B10"]])
    assert raster.band_names == L2A_BANDS


def test_a_eurosat_file_reads_right_once_its_order_is_named(tmp_path, shared_data):
    with rasterio.open(shared_data / "scene_germany" / "germany_2017-02-16_L1C.tif") as dataset:
        pixels = dataset.read(window=Window(0, 0, 64, 64))
    by_name = dict(zip(L1C_BANDS, pixels))
    path = write_geotiff(tmp_path / "River_1.tif", np.stack([by_name[band] for band in EUROSAT_FILE_BANDS]))
    raster = read_raster(path, bands=L1C_BANDS, band_names=EUROSAT_FILE_BANDS)
    np.testing.assert_array_equal(raster.pixels, pixels)


def test_a_window_equals_the_same_part_of_the_whole(shared_data):
    scene = shared_data / "scene_germany" / "germany_2017-02-16_L1C.tif"
    patch = next((shared_data / "bigearthnet").iterdir())
    for source, window in ((scene, (300, 128, 250, 96)), (patch, (7, 11, 64, 50))):
        column, row, width, height = window
        whole, part = read_raster(source), read_raster(source, window=Window(*window))
        np.testing.assert_array_equal(part.pixels, whole.pixels[:, row : row + height, column : column + width])
        np.testing.assert_array_equal(part.valid, whole.valid[row : row + height, column : column + width])
        assert part.transform == whole.transform * Affine.translation(column, row)


def test_a_bigearthnet_folder_reads_pixel_by_pixel(shared_data):
    folder = shared_data / "bigearthnet" / "S2A_MSIL2A_20170613T101031_87_48"
    raster = read_raster(folder)
    assert raster.band_names == L2A_BANDS
    assert raster.valid.all()
    assert raster.tags["date"] == "2017-06-13"
    assert raster.offsets is None
    for band, pixels in zip(raster.band_names, raster.pixels):
        with rasterio.open(folder / f"{folder.name}_{file_name(band)}.tif") as dataset:
            stored, origin = dataset.read(1), (dataset.transform.c, dataset.transform.f)
        expected = bilinear(stored, BANDS[band].resolution, origin, origin, (120, 120))
        np.testing.assert_allclose(pixels, expected, atol=0.01)


def test_the_embedded_sample_is_what_its_readme_says():
    raster = read_raster(SAMPLE)
    assert raster.band_names == L1C_BANDS
    assert raster.pixels.shape == (13, 512, 512)
    assert raster.pixels.dtype == np.uint16
    assert raster.valid.all()
    assert raster.crs == "EPSG:32618"
    assert "Copernicus" in raster.tags["copyright"]
    near, short = read_raster(SAMPLE, bands=["nir", "swir1"]).pixels
    water = (near < 600) & (short < 200)
    marsh = ~water & (near < 1500)
    assert 0.3 < water.mean() < 0.37
    assert 0.3 < marsh.mean() < 0.37
    assert SAMPLE.stat().st_size < 6e6


def test_dates_with_nodata_borders_keep_their_grid_in_degrees(shared_data):
    path = shared_data / "change_australia" / "post_2019-01-05_L2A.tif"
    raster = read_raster(path)
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
        assert raster.transform == dataset.transform
    np.testing.assert_array_equal(raster.valid, (pixels != 0).any(0))
    assert raster.band_names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B11")


# Grids


def test_grids_of_different_origins_stack_without_a_shift(tmp_path):
    # Each pixel holds its own coordinate, so that a shift of half a pixel shows as 5 m or more.
    origins = {"B02": (10, ORIGIN), "B05": (20, (ORIGIN[0] - 10, ORIGIN[1] + 30)), "B01": (60, (299950.0, 5800060.0))}
    sides = {"B02": 60, "B05": 40, "B01": 15}
    for axis in (0, 1):
        folder = tmp_path / f"axis_{axis}"
        folder.mkdir()
        for band, (resolution, origin) in origins.items():
            centres = resolution * (np.arange(sides[band]) + 0.5)
            easting, northing = np.meshgrid(origin[0] + centres, origin[1] - centres)
            values = ((easting - 299000) if axis == 0 else (northing - 5799000))[None].astype(np.float32)
            write_geotiff(folder / f"scene_{band}.tif", values, resolution, origin)
        raster = read_raster(folder)
        assert raster.band_names == ("B1", "B2", "B5")
        assert raster.valid.all()
        by_band = dict(zip(raster.band_names, raster.pixels))
        np.testing.assert_allclose(by_band["B5"], by_band["B2"], atol=1e-2)
        np.testing.assert_allclose(by_band["B1"], by_band["B2"], atol=1e-2)
        window = read_raster(folder, bands=["B1"], window=(13, 5, 20, 30))
        np.testing.assert_allclose(window.pixels[0], by_band["B2"][5:35, 13:33], atol=1e-2)


def test_pixels_that_a_coarser_band_does_not_cover_are_invalid(tmp_path):
    write_geotiff(tmp_path / "a_B02.tif", numbers(1, 12, 12))
    write_geotiff(tmp_path / "a_B05.tif", numbers(1, 5, 5), 20)
    raster = read_raster(tmp_path)
    expected = np.zeros((12, 12), bool)
    expected[:10, :10] = True
    np.testing.assert_array_equal(raster.valid, expected)
    assert read_raster(tmp_path, bands=["B2"]).valid.all()


def test_the_grid_does_not_depend_on_which_bands_are_asked_for(tmp_path):
    write_geotiff(tmp_path / "a_B02.tif", numbers(1, 12, 12))
    write_geotiff(tmp_path / "a_B05.tif", numbers(1, 6, 6), 20)
    with open_raster(tmp_path, bands=["B5"]) as reader:
        assert (reader.width, reader.height, reader.transform.a) == (12, 12, 10)


def test_finer_bands_are_averaged_and_coarser_ones_interpolated(tmp_path):
    fine = numbers(1, 12, 12)
    write_geotiff(tmp_path / "a_B02.tif", fine)
    write_geotiff(tmp_path / "a_B05.tif", numbers(1, 6, 6) * 10, 20)
    raster = read_raster(tmp_path, resolution=20)
    assert raster.transform == from_origin(*ORIGIN, 20, 20)
    np.testing.assert_allclose(raster.pixels[0], fine[0].reshape(6, 2, 6, 2).mean((1, 3)))
    np.testing.assert_allclose(raster.pixels[1], numbers(1, 6, 6)[0] * 10)


def test_resolution_none_is_the_finest_of_the_source(tmp_path):
    with pytest.warns(UserWarning, match="one pixel is 60 m on the ground"):
        raster = read_raster(write_geotiff(tmp_path / "a.tif", numbers(1), 60), resolution=None)
    assert raster.pixels.shape == (1, 16, 16)
    with pytest.warns(UserWarning, match="one pixel is 60 m on the ground"):
        raster = read_raster(tmp_path / "a.tif")
    assert raster.pixels.shape == (1, 96, 96)


def test_a_nearly_10_m_grid_is_left_alone(shared_data):
    raster = read_raster(shared_data / "series_slovenia" / "eolearn_L1C_2015-07-11.tif", band_names=L1C_BANDS)
    assert raster.pixels.shape == (13, 101, 100)
    assert raster.pixels.dtype == np.uint16


@pytest.mark.parametrize(("degrees", "warns"), [(9e-5, False), (1.8e-5, True), (2.7e-4, True)])
def test_a_ground_sampling_far_from_10_m_in_degrees_warns(tmp_path, degrees, warns):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), degrees, (116.0, -21.0), "EPSG:4326")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_raster(path).pixels.shape == (1, 16, 16)
    assert any("on the ground" in str(warning.message) for warning in caught) is warns


def test_the_ground_sampling_of_a_sensor_is_that_of_its_table(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(4), 30, names=["B2", "B3", "B4", "B5"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_raster(path, expected="landsat-8", resolution=30)
    with pytest.warns(UserWarning, match="30 m on the ground, far from the finest 3 m of PlanetScope, 4 bands"):
        read_raster(path, band_names=["red", "green", "blue", "nir"], expected="planetscope-4", resolution=None)


def test_bands_in_another_projection_are_reprojected(tmp_path):
    write_geotiff(tmp_path / "a_B02.tif", numbers(1, 32, 32))
    easting, northing = rasterio.warp.transform("EPSG:32633", "EPSG:32632", [ORIGIN[0]], [ORIGIN[1]])
    constant = np.full((1, 60, 60), 500, np.uint16)
    write_geotiff(tmp_path / "a_B05.tif", constant, 20, (easting[0] - 300, northing[0] + 300), "EPSG:32632")
    raster = read_raster(tmp_path)
    assert raster.valid.all()
    np.testing.assert_allclose(raster.pixels[1], 500)


def test_bands_of_different_sizes_without_georeference_are_refused(tmp_path):
    write_geotiff(tmp_path / "a_B02.tif", numbers(1, 12, 12), crs=None)
    write_geotiff(tmp_path / "a_B05.tif", numbers(1, 6, 6), crs=None)
    with pytest.raises(ValueError, match=r"found (12 x 12|6 x 6) px in .*B0.*: georeference the files"):
        read_raster(tmp_path)


def test_a_decimated_read_takes_every_nth_pixel(tmp_path):
    pixels = numbers(2, 40, 40)
    path = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"])
    with open_raster(path) as reader:
        raster = reader.read(out_shape=(10, 10))
    np.testing.assert_array_equal(raster.pixels, pixels[:, 2::4, 2::4])
    assert raster.transform == from_origin(*ORIGIN, 40, 40)


@pytest.mark.parametrize("window", [(0, 0, 17, 4), (-1, 0, 4, 4), (0, 0, 0, 4), (0.5, 0, 4, 4), Window(14, 14, 4, 4)])
def test_a_window_outside_the_grid_is_refused(tmp_path, window):
    path = write_geotiff(tmp_path / "a.tif", numbers(1))
    with pytest.raises(ValueError, match=r"a\.tif: expected a window of whole pixels"):
        read_raster(path, window=window)


# Nodata


def test_a_zero_in_one_band_is_data_and_in_all_bands_is_none(tmp_path):
    for nodata in (None, 0):
        pixels = numbers(3)
        pixels[:, 0, 0] = 0
        pixels[:2, 0, 1] = 0
        path = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3", "B4"], nodata=nodata)
        for bands in (None, ["B2"], ["B3", "B2"]):
            valid = read_raster(path, bands=bands).valid
            assert not valid[0, 0]
            assert valid.sum() == valid.size - 1


def test_a_zero_in_one_file_of_a_folder_is_data(tmp_path):
    blue, red_edge = numbers(1, 12, 12), numbers(1, 6, 6)
    blue[0, :4, :4] = 0
    red_edge[0, :1, :1] = 0
    write_geotiff(tmp_path / "a_B02.tif", blue)
    write_geotiff(tmp_path / "a_B05.tif", red_edge, 20)
    expected = np.ones((12, 12), bool)
    expected[:2, :2] = False
    for bands in (None, ["B2"], ["B5"]):
        np.testing.assert_array_equal(read_raster(tmp_path, bands=bands).valid, expected)


@pytest.mark.parametrize("nodata", [-9999, 65535, np.nan])
def test_a_declared_nodata_in_any_band_asked_for_is_invalid(tmp_path, nodata):
    pixels = numbers(2, dtype=np.uint16 if nodata == 65535 else np.float32)
    pixels[0, 3, 4] = nodata
    path = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"], nodata=nodata)
    valid = read_raster(path).valid
    assert not valid[3, 4]
    assert valid.sum() == valid.size - 1
    assert read_raster(path, bands=["B3"]).valid.all()


def test_nan_and_infinity_are_invalid_without_being_declared(tmp_path):
    pixels = numbers(2, dtype=np.float32)
    pixels[0, 0, 0], pixels[1, 2, 2] = np.nan, -np.inf
    raster = read_raster(write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"]))
    assert raster.valid.sum() == raster.valid.size - 2
    assert np.isfinite(raster.pixels[:, raster.valid]).all()


def test_saturation_is_data(tmp_path):
    pixels = numbers(2)
    pixels[0, 0, 0] = 65535
    assert read_raster(write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"])).valid.all()


def test_nodata_is_not_mixed_into_the_pixels_beside_it(tmp_path):
    for nodata in (None, 0, 60000):
        coarse = np.full((1, 6, 6), 1000, np.uint16)
        coarse[0, :, :2] = nodata or 0
        fine = np.full((1, 12, 12), 1000, np.uint16)
        fine[0, :, :4] = nodata or 0
        write_geotiff(tmp_path / "a_B02.tif", fine, nodata=nodata)
        write_geotiff(tmp_path / "a_B05.tif", coarse, 20, nodata=nodata)
        raster = read_raster(tmp_path)
        np.testing.assert_array_equal(raster.valid, fine[0] == 1000)
        np.testing.assert_array_equal(raster.pixels[:, raster.valid], 1000)


@pytest.mark.parametrize("resolution", [10, 20])
def test_an_alpha_band_says_what_is_valid_and_is_no_band(tmp_path, resolution):
    pixels = numbers(4, 8, 8, np.uint8)
    pixels[3] = 255
    pixels[3, 2:4, 2:4] = 0
    path = write_geotiff(tmp_path / "a.tif", pixels, photometric="RGB", alpha="yes")
    expected = np.kron(pixels[3] > 0, np.ones((1, 1), bool))
    if resolution == 20:
        expected = expected[::2, ::2]
    raster = read_raster(path, band_names=["B4", "B3", "B2"], resolution=resolution)
    assert raster.pixels.shape[0] == 3
    np.testing.assert_array_equal(raster.valid, expected)


def test_a_band_that_writers_declare_alpha_by_default_stays_a_band(tmp_path):
    pixels = numbers(4, dtype=np.uint8)
    path = write_geotiff(tmp_path / "a.tif", pixels, names=["B4", "B3", "B2", "B8"])
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    raster = read_raster(path)
    assert raster.band_names == ("B4", "B3", "B2", "B8")
    np.testing.assert_array_equal(raster.pixels, pixels)


def test_such_a_band_is_not_resampled_as_if_it_were_alpha(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(4, dtype=np.uint8), 20, names=["B4", "B3", "B2", "B8"])
    with pytest.raises(ValueError, match="declares a named band to be transparency"):
        read_raster(path)
    np.testing.assert_array_equal(read_raster(path, resolution=None).pixels, numbers(4, dtype=np.uint8))


@pytest.mark.parametrize("resolution", [10, 20])
def test_a_dataset_mask_is_used(tmp_path, resolution):
    path = write_geotiff(tmp_path / "a.tif", numbers(2), names=["B2", "B3"])
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:8, 4:8] = 0
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    step = resolution // 10
    np.testing.assert_array_equal(read_raster(path, resolution=resolution).valid, mask[::step, ::step] > 0)


# Radiometry


def test_an_odd_directory_of_a_tiff_prints_nothing(tmp_path, capfd):
    path = write_geotiff(tmp_path / "a.tif", np.ones((12, 8, 8), np.uint16), names=L2A_BANDS)
    extra_samples = (338).to_bytes(2, "little") + b"\x03\x00"  # a list of short integers, and how many
    content = path.read_bytes()
    assert extra_samples + b"\x0b" in content  # one colour channel and 11 more
    path.write_bytes(content.replace(extra_samples + b"\x0b", extra_samples + b"\x09"))
    assert read_raster(path).pixels.shape == (12, 8, 8)
    with open_raster(path) as reader:
        assert reader.read(out_shape=(4, 4)).pixels.shape == (12, 4, 4)
    assert capfd.readouterr() == ("", "")


def test_the_scale_and_offset_of_a_geotiff_are_applied(tmp_path):
    stored = numbers(2) + 1000
    path = write_geotiff(tmp_path / "a.tif", stored, names=["B2", "B3"])
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001, 0.0001), (-0.1, -0.05)
    raster = read_raster(path)
    assert raster.pixels.dtype == np.float32
    np.testing.assert_allclose(raster.pixels, stored - np.array([1000, 500])[:, None, None], atol=1e-2)
    assert raster.offsets == pytest.approx((-1000, -500))
    assert raster.tags["offset"] == "-1000,-500"


def test_an_offset_without_a_scale_is_in_digital_numbers(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B2"])
    with rasterio.open(path, "r+") as dataset:
        dataset.offsets = (-1000,)
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.pixels, numbers(1) - 1000.0)
    assert raster.tags["offset"] == "-1000"


@pytest.mark.parametrize("offset", [-1000, [-1000, -1000], np.array([-1000, -1000]), {"green": -1000, "B02": -1000}])
def test_a_given_offset_replaces_the_stated_one(tmp_path, offset):
    stored = numbers(2)
    path = write_geotiff(tmp_path / "a.tif", stored, names=["B2", "B3"])
    with rasterio.open(path, "r+") as dataset:
        dataset.offsets = (5, 6)
    raster = read_raster(path, offset=offset)
    np.testing.assert_array_equal(raster.pixels, stored - 1000.0)
    assert raster.offsets == (-1000, -1000)


def test_an_offset_of_zero_is_a_statement_and_changes_nothing(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B2"])
    assert read_raster(path).offsets is None
    raster = read_raster(path, offset=0)
    assert raster.offsets == (0,)
    assert raster.pixels.dtype == np.uint16


@pytest.mark.parametrize("offset", [[1, 2, 3], float("nan"), "ab", [None, 1], {"B44": 1}])
def test_an_offset_that_does_not_fit_is_refused(tmp_path, offset):
    path = write_geotiff(tmp_path / "a.tif", numbers(2), names=["B2", "B3"])
    with pytest.raises(ValueError, match=r"a\.tif.*`offset`|Unknown band 'B44'"):
        read_raster(path, offset=offset)


# Products

OFFSETS = [-1000 - 10 * index for index in range(13)]


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("offsets", [None, OFFSETS])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_safe_product_reads_to_reflectance(tmp_path, level, offsets, zipped):
    quantification = 5000
    safe = write_safe(tmp_path, level, offsets, quantification)
    source = zip_folder(safe) if zipped else safe
    raster = read_raster(source)
    assert raster.band_names == (L1C_BANDS if level == "L1C" else L2A_BANDS)
    assert raster.valid.all()
    added = dict(zip(L1C_BANDS, offsets or [0] * 13))
    for band, pixels in zip(raster.band_names, raster.pixels):
        # The finest file of each band, and in an L2A product B1 and B9 at 60 m only.
        resolution = BANDS[band].resolution
        stored = stored_band(band, resolution)[0].astype(float)
        reflectance = (bilinear(stored, resolution, ORIGIN, ORIGIN, (SIDE, SIDE)) + added[band]) / quantification
        np.testing.assert_allclose(pixels, 10000 * reflectance, atol=0.01)
    np.testing.assert_allclose(raster.offsets, [2 * added[band] for band in raster.band_names])
    assert raster.tags["date"].startswith("2022-03-16")
    assert raster.tags["processing_baseline"] == ("04.00" if offsets else "03.01")
    assert raster.tags["product"].endswith(".SAFE")


def test_a_safe_product_is_found_from_its_metadata_and_from_the_folder_around_it(tmp_path):
    safe = write_safe(tmp_path, "L1C", OFFSETS)
    expected = read_raster(safe, bands=["B4"]).pixels
    for source in (tmp_path, safe / "MTD_MSIL1C.xml"):
        np.testing.assert_array_equal(read_raster(source, bands=["B4"]).pixels, expected)


def test_zero_in_any_band_of_a_safe_product_is_nodata_and_saturation_is_not(tmp_path):
    def pixels(band, resolution):
        stored = stored_band(band, resolution)
        if band == "B4":
            stored[0, 0, 0], stored[0, 5, 5] = 0, 65535
        if band == "B11":
            stored[0, 3, 3] = 0
        return stored

    safe = write_safe(tmp_path, "L1C", OFFSETS, pixels=pixels)
    expected = np.ones((SIDE, SIDE), bool)
    expected[0, 0] = expected[6:8, 6:8] = False
    np.testing.assert_array_equal(read_raster(safe).valid, expected)
    assert read_raster(safe, bands=["B2", "B5"]).valid.all()


def test_a_safe_product_with_damaged_metadata_is_refused(tmp_path):
    safe = write_safe(tmp_path, "L2A", OFFSETS)
    metadata = safe / "MTD_MSIL2A.xml"
    for content in (metadata.read_text()[:500], metadata.read_text().replace(">10000<", ">many<"), ""):
        metadata.write_text(content)
        with pytest.raises(ValueError, match=r"SAFE: the product's metadata .* is damaged"):
            read_raster(safe)


def test_a_safe_product_that_states_offsets_for_some_bands_only_is_refused(tmp_path):
    safe = write_safe(tmp_path, "L1C", OFFSETS)
    metadata = safe / "MTD_MSIL1C.xml"
    text = metadata.read_text()
    metadata.write_text(text.replace('<RADIO_ADD_OFFSET band_id="4">-1040</RADIO_ADD_OFFSET>', ""))
    with pytest.raises(ValueError, match="state offsets, but none for B5"):
        read_raster(safe)


def test_a_folder_of_several_safe_products_is_refused(tmp_path):
    write_safe(tmp_path, "L1C")
    write_safe(tmp_path, "L2A")
    with pytest.raises(ValueError, match="expected one SAFE product, found 2"):
        read_raster(tmp_path)


def test_the_scene_classification_leaves_out_clouds_and_shadows(tmp_path):
    safe = write_safe(tmp_path, "L2A", OFFSETS)
    expected = np.ones((SIDE // 2, SIDE // 2), bool)
    expected[0, :4] = expected[1, 1] = False
    valid = read_raster(safe, bands=["B2"], mask="SCL").valid
    np.testing.assert_array_equal(valid, np.kron(expected, np.ones((2, 2), bool)))
    layer = next(safe.rglob("*_SCL_20m.jp2"))
    np.testing.assert_array_equal(read_raster(safe, bands=["B2"], mask=layer).valid, valid)
    only_snow = read_raster(safe, bands=["B2"], mask="SCL", mask_classes=[11]).valid
    assert only_snow.sum() == only_snow.size - 4
    assert not only_snow[2:4, 4:6].any()


def test_a_mask_file_leaves_out_its_zeros_and_what_it_does_not_cover(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B2"])
    mask = np.ones((1, 12, 16), np.uint8)
    mask[0, 3, 3] = 0
    expected = np.zeros((16, 16), bool)
    expected[:12] = mask[0] > 0
    write_geotiff(tmp_path / "clouds.tif", mask)
    for given in (tmp_path / "clouds.tif", (tmp_path / "clouds.tif").read_bytes()):
        np.testing.assert_array_equal(read_raster(path, mask=given).valid, expected)
    inverse = read_raster(path, mask=tmp_path / "clouds.tif", mask_classes=[1]).valid
    assert inverse.sum() == 1


def test_a_mask_that_is_not_there_is_refused(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B2"])
    with pytest.raises(ValueError, match=r"a\.tif: has no scene classification"):
        read_raster(path, mask="SCL")
    with pytest.raises(FileNotFoundError, match=r"clouds\.tif: no such mask"):
        read_raster(path, mask=tmp_path / "clouds.tif")


@pytest.mark.parametrize("pattern", ["{}.tif", "T31_20180101T104431_{}.jp2", "x_{}_10m.TIF", "2018_L1C_{}_(Raw).tiff"])
def test_files_named_after_their_band_make_a_folder_a_product(tmp_path, pattern):
    stored = numbers(13)
    for band, pixels in zip(L1C_BANDS, stored):
        # The content is what counts: all of these are GeoTIFFs.
        write_geotiff(tmp_path / pattern.format(file_name(band)), pixels[None], driver="GTiff")
    (tmp_path / "preview.jpg").write_bytes(b"no band")
    raster = read_raster(tmp_path, bands=["B8A", "B1", "B10"])
    np.testing.assert_array_equal(raster.pixels, stored[[8, 0, 10]])
    assert raster.pixels.dtype == np.uint16


def test_two_files_for_one_band_are_refused(tmp_path):
    for date in ("20180101", "20180201"):
        write_geotiff(tmp_path / f"{date}_B02.tif", numbers(1))
    with pytest.raises(
        ValueError, match=r"expected one file per band, but both 20180101_B02\.tif and 20180201_B02\.tif"
    ):
        read_raster(tmp_path)


def test_a_zipped_band_folder_reads_like_the_folder(tmp_path):
    folder = tmp_path / "bands"
    folder.mkdir()
    for band, pixels in zip(("B02", "B03"), numbers(2)):
        write_geotiff(folder / f"{band}.tif", pixels[None])
    np.testing.assert_array_equal(read_raster(zip_folder(folder)).pixels, numbers(2))


def stac_item(folder, **assets):
    item = {"type": "Feature", "id": "S2A_33UUU_20220316", "properties": {"datetime": "2022-03-16T10:20:21Z"}}
    return {**item, "assets": {name: {"href": str(folder / href)} | more for name, (href, more) in assets.items()}}


def test_a_stac_item_is_matched_by_band_name(tmp_path):
    stored = numbers(3)
    for name, pixels in zip("abc", stored):
        write_geotiff(tmp_path / f"{name}.tif", pixels[None])
    described = {"eo:bands": [{"name": "B04", "common_name": "red"}]}
    item = stac_item(
        tmp_path,
        nir=("a.tif", {}),
        B02_10m=("b.tif", {}),
        B02_60m=("c.tif", {}),
        measurement=("c.tif", described),
        visual=("a.tif", {"eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]}),
        thumbnail=("none.png", {}),
    )
    raster = read_raster(item)
    assert raster.band_names == ("B2", "B4", "B8")
    np.testing.assert_array_equal(raster.pixels, stored[[1, 2, 0]])
    assert raster.tags["date"] == "2022-03-16T10:20:21Z"


def test_a_stac_file_has_links_relative_to_itself(tmp_path):
    (tmp_path / "images").mkdir()
    write_geotiff(tmp_path / "images" / "red.tif", numbers(1))
    item = stac_item(Path("."), red=("images/red.tif", {}))
    (tmp_path / "item.json").write_text(json.dumps(item))
    np.testing.assert_array_equal(read_raster(tmp_path / "item.json").pixels, numbers(1))


@pytest.mark.parametrize(
    ("statement", "harmonised", "added"),
    [
        ({"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}, False, -1000),
        ({"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, True, 0),
        ({"bands": [{"name": "B04", "raster:scale": 0.0001, "raster:offset": -0.1}]}, False, -1000),
        ({"raster:scale": 0.0001, "raster:offset": -0.1}, False, -1000),
    ],
)
def test_the_scale_and_offset_of_a_stac_asset_are_applied(tmp_path, statement, harmonised, added):
    write_geotiff(tmp_path / "red.tif", numbers(1))
    item = stac_item(tmp_path, red=("red.tif", statement))
    if harmonised:
        item["properties"]["earthsearch:boa_offset_applied"] = True
    raster = read_raster(item)
    np.testing.assert_allclose(raster.pixels, numbers(1) + float(added), atol=1e-2)
    assert raster.offsets == pytest.approx((added,))


def test_a_json_file_that_is_no_item_is_refused(tmp_path):
    path = tmp_path / "item.json"
    for content in ("{}", '{"type": "FeatureCollection", "features": []}', "{", json.dumps(stac_item(tmp_path))):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"item\.json: .*STAC item"):
            read_raster(path)


def test_the_bytes_of_a_tiff_read_like_the_file(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(2), names=["B2", "B3"])
    raster = read_raster(path.read_bytes(), bands=["B3"])
    np.testing.assert_array_equal(raster.pixels, numbers(2)[1:])
    assert raster.crs == "EPSG:32633"


def test_a_url_reads_like_the_file(tmp_path, file_server):
    write_geotiff(tmp_path / "a.tif", numbers(1), names=["B3"])
    item = stac_item(Path("."), green=("", {}))
    item["assets"]["green"]["href"] = f"{file_server}/a.tif"
    for source in (f"/vsicurl/{file_server}/a.tif", f"{file_server}/a.tif", item):
        np.testing.assert_array_equal(read_raster(source).pixels, numbers(1))
    with pytest.raises(ValueError, match=r"missing\.tif: cannot be read"):
        read_raster(f"/vsicurl/{file_server}/missing.tif")


def test_bytes_that_refer_to_other_files_are_refused(tmp_path):
    path = write_geotiff(tmp_path / "secret.tif", numbers(1))
    with rasterio.open(path) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    assert read_raster(tmp_path / "a.vrt").pixels.shape == (1, 16, 16)
    with pytest.raises(ValueError, match=r"raster of \d+ bytes: expected the bytes of a TIFF or JPEG 2000"):
        read_raster((tmp_path / "a.vrt").read_bytes())


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float16, np.int64])
def test_an_array_file_needs_the_names_of_its_bands(tmp_path, dtype):
    array = numbers(2, 5, 6, dtype)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy: an \.npy array names no bands: pass `band_names`"):
        read_raster(tmp_path / "a.npy")
    raster = read_raster(tmp_path / "a.npy", band_names=["B8", "B4"])
    assert raster.band_names == ("B8", "B4")
    np.testing.assert_array_equal(raster.pixels, array)
    selected = read_raster(tmp_path / "a.npy", bands=["B4"], band_names=["B8", "B4"])
    np.testing.assert_array_equal(selected.pixels, array[1:])


def test_missing_bands_are_named_with_what_is_there(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(2), names=["B2", "B3"])
    with pytest.raises(ValueError, match=r"a\.tif: no band B4, B8A; the source holds B2, B3"):
        read_raster(path, bands=["B2", "red", "B8A"])


def test_quality_layers_beside_named_bands_are_left_out(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(3), names=["B2", "QA60", "B3"])
    raster = read_raster(path)
    assert raster.band_names == ("B2", "B3")
    np.testing.assert_array_equal(raster.pixels, numbers(3)[[0, 2]])


def test_a_container_of_several_rasters_is_refused_with_its_parts(tmp_path):
    for index in (1, 2):
        layer = {"driver": "GPKG", "RASTER_TABLE": f"part_{index}", "APPEND_SUBDATASET": "YES" if index > 1 else "NO"}
        write_geotiff(tmp_path / "a.gpkg", numbers(3, dtype=np.uint8), **layer)
    with pytest.raises(ValueError, match=r"a\.gpkg: expected a raster, found no bands; pass one .*:part_1, .*:part_2"):
        read_raster(tmp_path / "a.gpkg")
    part = read_raster(f"GPKG:{tmp_path / 'a.gpkg'}:part_2", band_names=["B4", "B3", "B2"])
    assert part.pixels.shape[0] == 3


def test_generic_descriptions_name_no_bands(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(10), names=[f"Band {index}" for index in range(1, 11)])
    with pytest.warns(UserWarning, match="10 bands without names"):
        assert read_raster(path).band_names == SEGMUNICH_BANDS


def test_a_map_without_band_names_reads_as_it_is(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1, dtype=np.uint8), names=["landcover"])
    raster = read_raster(path)
    assert raster.band_names is None
    np.testing.assert_array_equal(raster.pixels, numbers(1, dtype=np.uint8))


# Writing


def test_what_is_written_reads_back(tmp_path):
    path = tmp_path / "out.tif"
    pixels = numbers(3, 600, 700) % 5000 + 1
    pixels[:, :10] = 0
    transform = from_origin(*ORIGIN, 10, 10)
    write_raster(
        path,
        pixels,
        crs="EPSG:32633",
        transform=transform,
        band_names=["B2", "B3", "B4"],
        nodata=0,
        tags={"date": "2020-01-02"},
    )
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.pixels, pixels)
    assert raster.band_names == ("B2", "B3", "B4")
    assert (raster.crs, raster.transform) == ("EPSG:32633", transform)
    assert raster.tags["date"] == "2020-01-02"
    np.testing.assert_array_equal(raster.valid, (pixels != 0).any(0))
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"
        assert dataset.overviews(1)
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]


def test_a_class_map_keeps_its_colours_and_its_classes_in_overviews(tmp_path):
    path = tmp_path / "classes.tif"
    classes = np.kron(np.random.default_rng(0).choice([1, 9], (80, 80)), np.ones((8, 8))).astype(np.uint8)
    colormap = {1: (255, 0, 0, 255), 9: (0, 0, 255, 255)}
    write_raster(path, classes, crs="EPSG:32633", transform=from_origin(*ORIGIN, 10, 10), colormap=colormap, nodata=255)
    with rasterio.open(path) as dataset:
        assert {value: dataset.colormap(1)[value] for value in colormap} == colormap
        assert set(np.unique(dataset.read(1, out_shape=(320, 320)))) == {1, 9}
        assert dataset.nodata == 255


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_geotiff(tmp_path / "out.tif", numbers(1))
    before = path.read_bytes()
    arguments = {"crs": "EPSG:32633", "transform": from_origin(*ORIGIN, 10, 10)}
    with pytest.raises(ValueError, match=r"out\.tif: "):
        write_raster(path, numbers(1).astype(np.uint8), nodata=-9999, **arguments)
    with pytest.raises(ValueError, match="cannot hold complex256 values"):
        write_raster(path, numbers(1).astype(np.complex256), **arguments)
    with pytest.raises(ValueError, match="2 band names for 1 bands"):
        write_raster(path, numbers(1), band_names=["B2", "B3"], **arguments)
    with pytest.raises(ValueError, match=r"expected pixels \(C, H, W\)"):
        write_raster(path, np.zeros((0, 4, 4)), **arguments)
    with pytest.raises(OSError, match=r"none/out\.tif: cannot be written"):
        write_raster(tmp_path / "none" / "out.tif", numbers(1), **arguments)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]
