import json
import os
import re
import shutil
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.control import GroundControlPoint

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.modeling import raster_files
from spectralgpt_hf.modeling.bands import BANDS_10M_20M, L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.products import offsets_per_band
from spectralgpt_hf.modeling.rasters import open_raster, read_raster
from tests.modeling.products import file_name, stored_band, write_geotiff, write_safe
from tests.modeling.test_rasters import OFFSETS, numbers, stac_item


# Every kind of real sample


@pytest.mark.parametrize(
    ("source", "bands", "options"),
    [
        ("eurosat/*/*.tif", 13, {"band_names": [*L1C_BANDS[:8], *L1C_BANDS[9:], "B8A"]}),
        ("pretraining/floods/*.tif", None, {}),
        ("pretraining/single/*.tif", None, {}),
        ("pretraining/continents/*.tif", None, {}),
        ("pretraining/water/*.tif", None, {}),
        ("barkbeetle/2019-09/sentinel_2/*.tif", 12, {}),
        ("ssl4eo_s12/s2a/*/*", 12, {}),
        ("ssl4eo_s12/s2c/*/*", 13, {}),
        ("chips_worldwide/L1C/*.tif", 13, {}),
        ("series_slovenia/eolearn_L1C*.tif", 13, {}),
        ("scene_germany/*.tif", 13, {}),
        ("bigearthnet/*", 12, {}),
        ("change_australia/p*_L2A.tif", 10, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_real_sample_reads(shared_data, source, bands, options):
    paths = sorted(path for path in shared_data.glob(source) if path.name.upper() != "README.MD")[:3]
    if bands is None and not paths:
        pytest.skip("its samples are not unpacked")
    assert paths
    for path in paths:
        with open_raster(path, resolution=None, **options) as reader:
            raster = reader.read((0, 0, min(32, reader.width), min(32, reader.height)))
            assert all(state for _, state in reader.identity())
        assert bands is None or len(raster.band_names) == bands
        assert np.isfinite(raster.pixels[:, raster.valid]).all()


# Nodata and offsets that the caller gives


def test_a_given_nodata_is_not_mixed_into_the_pixels_beside_it(tmp_path):
    coarse = np.full((1, 6, 6), 1000, np.uint16)
    coarse[0, :, :2] = 65535
    fine = np.full((1, 12, 12), 1000, np.uint16)
    fine[0, :, :4] = 65535
    write_geotiff(tmp_path / "a_B02.tif", fine)
    write_geotiff(tmp_path / "a_B05.tif", coarse, 20)
    raster = read_raster(tmp_path, nodata=65535)
    np.testing.assert_array_equal(raster.valid, fine[0] == 1000)
    np.testing.assert_array_equal(raster.pixels[:, raster.valid], 1000)


@pytest.mark.parametrize("scale", [None, 1e-4, 2e-4])
def test_a_given_nodata_is_in_stored_units_and_replaces_the_files_own(tmp_path, scale):
    pixels = numbers(2)
    pixels[:, 0, 0], pixels[:, 0, 1] = 50000, 60000
    path = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"], nodata=60000)
    if scale is not None:
        with rasterio.open(path, "r+") as dataset:
            dataset.scales = (scale, scale)
    for read in (
        lambda: read_raster(path, nodata=50000).valid,
        lambda: read_raster(path.read_bytes(), nodata=50000).valid,
    ):
        valid = read()
        assert not valid[0, 0]
        assert valid.sum() == valid.size - 1
    processor = SpectralGPTImageProcessor(bands=["B2", "B3"], spectral_patch_size=2, patch_size=1)
    tokens = processor(path, nodata=50000)["attention_mask"].view(16, 16)
    assert tokens[0, 0] == 0
    assert tokens.sum() == 255


def test_an_offset_list_is_of_the_bands_of_the_source_whatever_is_read(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(3) + 5000, names=["B2", "B3", "B4"])
    raster = read_raster(path, bands=["B4", "B2"], offset=[-1, -2, -3])
    assert raster.offsets == (-3, -1)
    np.testing.assert_array_equal(raster.pixels, (numbers(3) + 5000.0)[[2, 0]] - np.array([3, 1])[:, None, None])


def test_offsets_by_name_leave_what_is_stated_for_other_bands():
    assert offsets_per_band("a", {"blue": 7}, ["B2", "B3"], [1.0, None]) == (7, 0)
    assert offsets_per_band("a", {"B3": 7}, ["B2", "B3"], [1.0, 2.0]) == (1, 7)
    assert offsets_per_band("a", -5, ["B2", "B3"]) == (-5, -5)
    with pytest.raises(ValueError, match=r"a: expected a finite `offset`.*2 bands"):
        offsets_per_band("a", [1, 2, 3], ["B2", "B3"])


def test_only_the_bands_that_are_there_are_read_when_others_may_be_missing(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(3), names=["B4", "B2", "B3"])
    assert read_raster(path, ["B3", "B4", "B8"], skip_missing=True).band_names == ("B4", "B3")
    assert read_raster(path, ["B8"], skip_missing=True).band_names == ("B4", "B2", "B3")


def test_saturated_pixels_are_data_and_marked(tmp_path):
    pixels = numbers(2)
    pixels[0, 3, 4] = 65535
    path = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"])
    raster = read_raster(path)
    assert raster.valid.all()
    np.testing.assert_array_equal(raster.saturated, pixels == 65535)
    np.testing.assert_array_equal(read_raster(path.read_bytes()).saturated, pixels == 65535)
    assert read_raster(path, bands=["B3"]).saturated is None
    assert read_raster(path, nodata=65535).saturated is None


# What metadata state and do not state


def messages(source, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_raster(source, **options)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("properties", "warns"),
    [
        ({"s2:processing_baseline": "05.09"}, True),
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False}, True),
        ({"s2:processing_baseline": "03.01"}, False),
        ({"s2:processing_baseline": "99.99"}, False),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, False),
        ({"s2:processing_baseline": "05.09", "boa_offset_applied": True}, False),
        ({}, False),
    ],
)
def test_a_baseline_with_an_offset_that_nothing_states_warns_once(tmp_path, properties, warns):
    write_geotiff(tmp_path / "a.tif", numbers(1))
    item = stac_item(tmp_path, B02=("a.tif", {}), B03=("a.tif", {}))
    item["properties"] |= properties
    warnings_about_offsets = [message for message in messages(item) if "pass `offset=-1000`" in message]
    assert len(warnings_about_offsets) == warns
    assert not messages(item, offset=0)
    stated = stac_item(tmp_path, B02=("a.tif", {"raster:scale": 1e-4, "raster:offset": 0}))
    stated["properties"] |= properties
    assert not messages(stated)


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("S2A_MSIL2A_20220316T102021_N0400_R065_T33UUU_20220316T123456.tif", True),
        ("S2A_MSIL2A_20170613T101031_N0205_R022_T33UUU_20170613T101608.tif", False),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_87_48.tif", False),
    ],
)
def test_a_file_named_after_a_baseline_with_an_offset_warns(tmp_path, name, warns):
    path = write_geotiff(tmp_path / name, numbers(1), names=["B2"])
    assert any("`offset=-1000`" in message for message in messages(path)) == warns


def test_an_offset_that_makes_most_visible_pixels_negative_warns_once(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(2) % 400 + 200, names=["B2", "B12"])
    with open_raster(path, offset=-1000) as reader, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reader.read()
        reader.read()
    assert [re.search("100% of the valid pixels negative", str(w.message)) is not None for w in caught] == [True]
    assert not messages(path, offset={"B12": -1000, "B2": 0}, bands=["B2"])
    assert not messages(write_geotiff(tmp_path / "b.tif", numbers(2) + 1500, names=["B2", "B12"]), offset=-1000)


# SAFE


def test_a_folder_inside_a_safe_is_read_with_the_metadata_around_it(tmp_path):
    for level in ("L1C", "L2A"):
        safe = write_safe(tmp_path / level, level, OFFSETS)
        expected = read_raster(safe, bands=["B4"])
        inside = [next(safe.glob("GRANULE/*/IMG_DATA")), next(safe.glob("GRANULE/*"))]
        for folder in inside + ([inside[0] / "R10m"] if level == "L2A" else []):
            raster = read_raster(folder, bands=["B4"])
            np.testing.assert_array_equal(raster.pixels, expected.pixels)
            assert raster.offsets == expected.offsets
        (safe / f"MTD_MSI{level}.xml").unlink()
        for folder in [safe, *inside]:
            with pytest.raises(ValueError, match="part of a SAFE product without its metadata"):
                read_raster(folder)


def test_a_zipped_safe_without_metadata_is_refused_and_names_match_in_any_case(tmp_path):
    safe = write_safe(tmp_path, "L2A", OFFSETS)
    metadata = safe / "MTD_MSIL2A.xml"
    expected = read_raster(safe, bands=["B4"]).pixels
    metadata.rename(safe / "MTD_MSIL2a.xml")
    np.testing.assert_array_equal(read_raster(safe, bands=["B4"]).pixels, expected)
    for name, content in (("a.zip", True), ("b.zip", False)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in safe.rglob("*"):
                if content or file.suffix != ".xml":
                    archive.write(file, file.relative_to(tmp_path))
    np.testing.assert_array_equal(read_raster(tmp_path / "a.zip", bands=["B4"]).pixels, expected)
    with pytest.raises(ValueError, match=r"b\.zip: part of a SAFE product without its metadata"):
        read_raster(tmp_path / "b.zip")


@pytest.mark.parametrize("number", ["13", "-1", "3"])
def test_an_offset_of_no_band_or_of_one_band_twice_is_refused(tmp_path, number):
    safe = write_safe(tmp_path, "L1C", OFFSETS)
    metadata = safe / "MTD_MSIL1C.xml"
    metadata.write_text(metadata.read_text().replace('band_id="12"', f'band_id="{number}"'))
    with pytest.raises(ValueError, match="expected each of 0 to 12 once"):
        read_raster(safe)


def test_the_coastal_band_of_20_m_is_taken_before_that_of_60_m(tmp_path):
    safe = write_safe(tmp_path, "L2A", OFFSETS)
    folder = next(safe.glob("GRANULE/*/IMG_DATA/R20m"))
    fine = np.full((1, 12, 12), 4321, np.uint16)
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    write_geotiff(folder / "T33UUU_20220316T102021_B01_20m.jp2", fine, 20, **options)
    np.testing.assert_allclose(read_raster(safe, bands=["B1"], offset=0).pixels, 4321)
    assert stored_band("B1", 60).max() != 4321


# STAC items, ground control points, identities


def test_a_pystac_item_reads_like_its_dict_and_each_asset_is_opened_once(tmp_path, monkeypatch):
    for index, band in enumerate(L2A_BANDS):
        write_geotiff(tmp_path / f"{band}.tif", numbers(12)[index : index + 1])
    item = stac_item(tmp_path, **{file_name(band): (f"{band}.tif", {}) for band in L2A_BANDS})
    like_pystac = SimpleNamespace(id=item["id"], assets=item["assets"], to_dict=lambda: item)
    np.testing.assert_array_equal(read_raster(like_pystac).pixels, numbers(12))
    opened = []
    original = rasterio.open
    monkeypatch.setattr(
        raster_files.rasterio, "open", lambda path, **more: opened.append(path) or original(path, **more)
    )
    SpectralGPTImageProcessor(bands=["B2", "B3", "B4"])(like_pystac)
    assert sorted(opened) == [str(tmp_path / f"B{number}.tif") for number in (2, 3, 4)]


def test_a_file_placed_by_ground_control_points_only_warns(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B2"], crs=None)
    points = [GroundControlPoint(row, column, 3e5 + column, 58e5 - row) for row in (0, 16) for column in (0, 16)]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, rasterio.CRS.from_epsg(32633))
    assert any("only ground control points" in message for message in messages(path))


def test_identities_change_with_any_file_behind_a_source(tmp_path):
    folder = tmp_path / "bands"
    folder.mkdir()
    for band in ("B02", "B03"):
        write_geotiff(folder / f"{band}.tif", numbers(1))
    with rasterio.open(folder / "B02.tif") as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    np.save(tmp_path / "a.npy", numbers(1))

    def identity(source, **options):
        with open_raster(source, **options) as reader:
            return reader.identity()

    sources = {folder: {}, tmp_path / "a.vrt": {"band_names": ["B2"]}, tmp_path / "a.npy": {"band_names": ["B2"]}}
    before = [identity(source, **options) for source, options in sources.items()]
    assert before == [identity(source, **options) for source, options in sources.items()]
    for file in (folder / "B02.tif", tmp_path / "a.npy"):
        os.utime(file, ns=(1, 1))
    after = [identity(source, **options) for source, options in sources.items()]
    assert all(old != new for old, new in zip(before, after))
    content = (folder / "B02.tif").read_bytes()
    assert identity(content) == identity(content)
    assert identity(content) != identity((folder / "B03.tif").read_bytes() + b" ")


def test_a_remote_layer_is_identified_by_what_its_server_states(tmp_path, file_server):
    path = write_geotiff(tmp_path / "a.tif", numbers(1), names=["B3"])
    with open_raster(f"{file_server}/a.tif?signature=secret") as reader:
        ((name, state),) = reader.identity()
    assert name == f"{file_server}/a.tif"
    assert str(path.stat().st_size) in state


def test_a_server_that_stalls_is_given_up(monkeypatch):
    import socket

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    limits = {"GDAL_HTTP_TIMEOUT": "1", "GDAL_HTTP_MAX_RETRY": "0", "GDAL_HTTP_CONNECTTIMEOUT": "1"}
    monkeypatch.setattr(raster_files, "NETWORK_DEFAULTS", raster_files.NETWORK_DEFAULTS | limits)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.tif"
        with pytest.raises(ValueError, match=r"a\.tif: cannot be read"):
            read_raster(address)


def test_a_seco_or_ssl4eo_folder_is_one_sample(tmp_path):
    for band in BANDS_10M_20M:
        write_geotiff(tmp_path / f"{band}.tif", numbers(1))
    (tmp_path / "metadata.json").write_text(json.dumps({"id": 1}))
    shutil.copy(tmp_path / "metadata.json", tmp_path / "geometry.json")
    assert read_raster(tmp_path).band_names == BANDS_10M_20M
