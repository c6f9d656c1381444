import re

import numpy as np
import pytest
import rasterio

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import BANDS
from spectralgpt_hf.modeling.identification import sensor_of_files, sensor_of_statements, sensor_of_tags
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.modeling.sensors import SENSORS
from tests.modeling.other_products import TEN_PRODUCTS, reflectance
from tests.modeling.products import write_geotiff
from tests.modeling.test_rasters import numbers, stac_item


@pytest.mark.parametrize(
    ("name", "sensor"),
    [
        ("LC09_L2SP_193026_20220316_20220318_02_T1_SR_B5.TIF", "landsat-8"),
        ("LE07_L1TP_193026_20020316_20200916_02_T1_B4.TIF", "landsat-7"),
        ("LC81930262016075LGN00_B5.TIF", "landsat-8"),
        ("LM05_L1TP_193026_19850316_20200918_02_T2_B4.TIF", "landsat"),
        ("HLS.L30.T33UUU.2022075T100000.v2.0.B06.tif", "hls-l30"),
        ("20220316_101112_05_2445_3B_AnalyticMS_SR_8b.tif", "planetscope-8"),
        ("ENMAP01-____L2A-DT0000001234_20220627T104548Z_001_V010303_SPECTRAL_IMAGE.TIF", "enmap"),
        ("MOD09GA.A2022075.h18v03.061.B02.tif", "modis"),
        ("S3A_OL_1_EFR____20220316T093000.B08.tif", "sentinel-3"),
        ("HLS.S30.T33UUU.2022075T102021.v2.0.B06.tif", "hls-s30"),
        ("T33UUU_20220316T102021_B05_20m.jp2", "sentinel-2"),
        ("S2A_MSIL2A_20170613T101031_87_48_B8A.tif", "sentinel-2"),
        ("River_1.tif", None),
        ("LC_2018.tif", None),
    ],
)
def test_file_names_tell_the_sensor(name, sensor):
    found = sensor_of_files([f"/some/folder/{name}"])
    assert (found and found.name) == sensor


@pytest.mark.parametrize(
    ("statements", "sensor"),
    [
        (["landsat-9", "landsat", "oli", "tirs"], "landsat-8"),
        (["landsat-7", "etm+"], "landsat-7"),
        (["landsat"], "landsat"),
        (["planetscope"], "planetscope"),
        (["Terra"], "modis"),
        (["Sentinel-2A"], "sentinel-2"),
        (["sentinel-2b", "sentinel-2", "msi"], "sentinel-2"),
        (["landsat-8", "sentinel-2a"], "sentinel-2"),
        ([None, ""], None),
    ],
)
def test_statements_tell_the_sensor(statements, sensor):
    found = sensor_of_statements(statements)
    assert (found and found.name) == sensor


def test_a_folder_of_landsat_bands_is_refused_with_what_to_pass(tmp_path):
    for band in ("B4", "B5", "B6"):
        write_geotiff(tmp_path / f"LC09_L2SP_193026_20220316_20220318_02_T1_SR_{band}.TIF", numbers(1), driver="GTiff")
    message = r"an image of Landsat 8/9 OLI, but expected Sentinel-2.*Pass `match='wavelength'`"
    with pytest.raises(ValueError, match=message):
        read_raster(tmp_path)


@pytest.mark.parametrize("stated", [{"platform": "landsat-9"}, {"instruments": ["oli", "tirs"]}, {}])
def test_a_landsat_item_is_refused_although_its_keys_match(tmp_path, stated):
    file = "LC09_L2SP_193026_20220316_20220318_02_T1_SR_B5.TIF"
    item = stac_item(tmp_path, nir08=("a.tif" if stated else file, {}), swir16=("b.tif", {}))
    item["properties"] |= stated
    with pytest.raises(ValueError, match="STAC item 'S2A_33UUU_20220316': an image of Landsat"):
        read_raster(item)


@pytest.mark.parametrize("tags", [{"SATELLITE": "LANDSAT_8"}, {"SENSING_INSTRUMENT": "OLI"}, {"sensor": "EnMAP"}])
def test_tags_tell_the_sensor_and_band_names_say_how_its_bands_serve(tmp_path, tags):
    path = write_geotiff(tmp_path / "a.tif", numbers(2), names=["nir08", "swir16"])
    assert read_raster(path).band_names == ("B8A", "B11")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**tags)
    with pytest.raises(ValueError, match=r"a\.tif: an image of (Landsat|EnMAP)"):
        read_raster(path)
    assert read_raster(path, band_names=["B8A", "B11"]).band_names == ("B8A", "B11")


def test_a_folder_of_bands_whose_tags_state_another_sentinel_is_refused(tmp_path):
    for name in ("B2", "B3"):
        path = write_geotiff(tmp_path / f"{name}.tif", numbers(1))
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(SATELLITE="Sentinel-3A")
    with pytest.raises(ValueError, match="an image of Sentinel-3"):
        read_raster(tmp_path)


def test_a_single_file_of_another_sensor_with_band_names_is_refused(tmp_path):
    path = write_geotiff(tmp_path / "20220316_101112_05_2445_3B_AnalyticMS_SR.tif", numbers(2), names=["blue", "nir"])
    with pytest.raises(ValueError, match="an image of PlanetScope"):
        read_raster(path)


def test_tags_tell_the_sensor_of_our_own_rasters():
    for name in ("landsat-7", "landsat-8", "hls-l30", "hls-s30", "planetscope-4", "planetscope-8", "modis", "enmap"):
        found = sensor_of_tags({"sensor": str(SENSORS[name])})
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize("write", TEN_PRODUCTS, ids=lambda write: write.__name__)
def test_a_product_of_another_sensor_is_identified_and_refused_with_advice(tmp_path, write):
    product = write(tmp_path)
    advice = r"but expected Sentinel-2, .*Pass `match='wavelength'`.*or `sensor='sentinel-2'`"
    with pytest.raises(ValueError, match=f"an image of {re.escape(str(SENSORS[product.sensor]))}, {advice}"):
        read_raster(product.source)
    with pytest.raises(ValueError, match="an image of"):
        SpectralGPTImageProcessor()(product.source)


@pytest.mark.parametrize("write", TEN_PRODUCTS, ids=lambda write: write.__name__)
def test_a_product_is_read_in_the_names_of_its_sensor_where_that_is_expected(tmp_path, write):
    product = write(tmp_path)
    raster = read_raster(product.source, expected=product.sensor, resolution=None)
    assert raster.sensor == product.sensor
    sensor = SENSORS[product.sensor]
    assert raster.band_names == sensor.resolve_all(raster.band_names)
    centres = sensor.wavelengths(raster.band_names)
    assert None not in centres
    # Whatever the scale of the product, what comes out are digital numbers.
    expected = [1e4 * reflectance(number)[0, 0] for number in range(len(raster.band_names))]
    np.testing.assert_allclose(raster.pixels[:, 0, 0], expected, atol=0.6)
    assert raster.tags["sensor"] == str(sensor)


def test_bands_that_only_sentinel_2_has_identify_it_where_another_sensor_is_expected(tmp_path):
    pixels = np.full((13, 8, 8), 900, np.uint16)
    stack = write_geotiff(tmp_path / "stack.tif", pixels, names=list(BANDS))
    (tmp_path / "folder").mkdir()
    for band in ("B2", "B3", "B4", "B8A"):
        write_geotiff(tmp_path / "folder" / f"{band}.tif", pixels[:1])
    (tmp_path / "tile").mkdir()
    for band in ("B02", "B03", "B04"):
        write_geotiff(tmp_path / "tile" / f"T33UUU_20220316T102021_{band}_10m.tif", pixels[:1])
    for source in (stack, tmp_path / "folder", tmp_path / "tile"):
        with pytest.raises(ValueError, match="an image of Sentinel-2, but expected Landsat"):
            read_raster(source, expected="landsat-8")
        assert {"B3", "B4"} <= set(read_raster(source).band_names)
