"""Bands that are looked at and not used, such as B10, decide nothing: in files, scenes, pipelines, page and handler."""

import base64

import numpy as np
import pytest
import rasterio

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.pipeline_spectralgpt import MultispectralImageSegmentationPipeline
from spectralgpt_hf.modeling.rasters import open_raster, read_raster
from spectralgpt_hf.serving import endpoint_handler
from spectralgpt_hf.serving.uploads import read_upload
from tests.inference.scenes import processor, read, segmenter, write_scene


CIRRUS = L1C_BANDS.index("B10")


@pytest.fixture
def scene(tmp_path):
    """A scene whose B10 declares no data in a corner where all other bands have data."""

    def change(pixels):
        pixels[CIRRUS, :40, :40] = 7

    return write_scene(tmp_path / "scene.tif", width=64, height=64, change=change, nodata=7)


def without_cirrus(path, target):
    with rasterio.open(path) as source:
        kept = [i + 1 for i, band in enumerate(L1C_BANDS) if band != "B10"]
        profile = source.profile | {"count": 12}
        with rasterio.open(target, "w", **profile) as file:
            file.write(source.read(kept))
            file.descriptions = L2A_BANDS
    return target


def test_a_band_that_is_read_beside_decides_nothing(scene):
    with open_raster(scene, L2A_BANDS, beside=["B10"], skip_missing=True) as reader:
        raster = reader.read()
    assert "B10" in raster.band_names
    assert raster.valid.all()
    assert not read_raster(scene).valid[:40, :40].any()  # where it is asked for, it counts
    with open_raster(scene, ["B4", "B3"], beside=["B10", "B4"]) as reader:
        assert reader.band_names == ("B4", "B3", "B10")


def test_inputs_statistics_and_maps_are_those_of_the_scene_without_the_band(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_handler, "_restrict_gdal", lambda path: None)  # it is for a process of its own
    plain = without_cirrus(scene, tmp_path / "plain.tif")
    own, model = SpectralGPTImageProcessor(), segmenter()
    np.testing.assert_array_equal(own(str(scene))["pixel_values"], own(str(plain))["pixel_values"])
    assert own.measure_statistics(str(scene)) == own.measure_statistics(str(plain))
    expected = read(predict_scene(model, processor(), plain, tmp_path / "plain_map.tif", progress=False))[0]
    found = read(predict_scene(model, processor(), scene, tmp_path / "map.tif", progress=False))[0]
    np.testing.assert_array_equal(found, expected)
    segment = MultispectralImageSegmentationPipeline(model=model, image_processor=processor(), device="cpu")
    for source in (scene, scene.read_bytes()):
        result = segment(source)["map"]
        assert result.valid.all()
        np.testing.assert_array_equal(result.pixels[0], expected)
    assert read_upload(scene).raster.valid.all()
    model.save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    answer = endpoint_handler.EndpointHandler(str(tmp_path / "model"))({"inputs": scene.read_bytes()})
    np.testing.assert_array_equal(read_raster(base64.b64decode(answer["map"])).pixels[0], expected)


def test_a_nodata_value_counts_in_the_bands_in_use_only(scene):
    own = SpectralGPTImageProcessor()
    raster = read_raster(scene, nodata=60000)
    assert raster.valid.all()
    batch, (report,) = own(raster, nodata=7, report=True)
    assert report.valid is None
    np.testing.assert_array_equal(batch["pixel_values"], own(str(scene))["pixel_values"])
