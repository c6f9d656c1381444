"""The STAC item of a checkpoint, held to the schema of the extension for machine learning models."""

import json

import pytest

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.assets import CHECKPOINT, find_checkpoint
from spectralgpt_hf.hub.allowed_files import problems_of
from spectralgpt_hf.hub.model_items import describe_model, write_model_item
from tests.inference.scenes import build, change_detector, classifier, segmenter
from tests.stac import problems


MODELS = {
    "encoder": lambda: build(SpectralGPTModel),
    "pretraining": lambda: build(SpectralGPTForPreTraining),
    "classifier": classifier,
    "segmenter": segmenter,
    "change_detector": change_detector,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_item_of_every_task_fits_the_schema(tmp_path, name):
    MODELS[name]().save_pretrained(tmp_path)
    SpectralGPTImageProcessor().save_pretrained(tmp_path)
    write_model_item(tmp_path, "my model")
    item = json.loads((tmp_path / "stac_item.json").read_text())
    assert problems(item, "mlm") == []
    assert list(problems_of(tmp_path / "stac_item.json", "stac_item.json")) == []
    properties = item["properties"]
    assert properties["mlm:name"] == "my-model"
    bands = [band["name"] for band in properties["eo:bands"]]
    assert bands == properties["mlm:input"][0]["bands"] == list(SpectralGPTImageProcessor().bands)
    assert len(properties["mlm:input"]) == (2 if name == "change_detector" else 1)
    classes = properties["mlm:output"][0].get("classification:classes", [])
    assert len(classes) == {"classifier": 3, "segmenter": 3, "change_detector": 2}.get(name, 0)
    for asset in item["assets"].values():
        assert (tmp_path / asset["href"]).is_file()


def test_the_item_of_another_sensor_states_its_bands_and_its_launch(tmp_path):
    build(SpectralGPTModel, sensor="landsat-8", bands=None, num_channels=8).save_pretrained(tmp_path)
    config = SpectralGPTConfig.from_pretrained(tmp_path)
    SpectralGPTImageProcessor(**config.band_settings()).save_pretrained(tmp_path)
    item = describe_model(tmp_path, "landsat")
    assert problems(item, "mlm") == []
    properties = item["properties"]
    assert properties["description"] == "SpectralGPTModel, a spectral transformer for images of Landsat 8/9 OLI."
    assert properties["start_datetime"] == "2013-02-11T00:00:00Z"
    assert properties["eo:bands"][4:6] == [
        {"name": "B5", "common_name": "nir08", "center_wavelength": 0.8647},
        {"name": "B9", "common_name": "cirrus", "center_wavelength": 1.3734},
    ]
    assert properties["mlm:input"][0]["bands"] == [band["name"] for band in properties["eo:bands"]] == config.bands
    assert "Sentinel" not in json.dumps(item)


def test_the_bands_of_ones_own_sensor_have_wavelengths_and_no_invented_name(tmp_path):
    own = {"sensor": "drone", "bands": ["green", "edge", "nir"], "wavelengths": [560, 717, 842]}
    build(SpectralGPTModel, **own, num_channels=3).save_pretrained(tmp_path)
    SpectralGPTImageProcessor(**own).save_pretrained(tmp_path)
    item = describe_model(tmp_path, "drone")
    assert problems(item, "mlm") == []
    assert item["properties"]["eo:bands"] == [
        {"name": "green", "common_name": "green", "center_wavelength": 0.56},
        {"name": "edge", "center_wavelength": 0.717},
        {"name": "nir", "common_name": "nir", "center_wavelength": 0.842},
    ]
    assert item["properties"]["start_datetime"] == "0001-01-01T00:00:00Z"  # STAC demands a start


def test_the_bands_of_sentinel_2_have_their_common_names():
    properties = describe_model(CHECKPOINT)["properties"]
    expected = [
        "coastal",
        "blue",
        "green",
        "red",
        "rededge",
        "rededge",
        "rededge",
        "nir",
        "nir08",
        "nir09",
        "swir16",
        "swir22",
    ]
    assert [band["common_name"] for band in properties["eo:bands"]] == expected
    assert properties["start_datetime"] == "2015-06-23T00:00:00Z"


def test_limits_of_a_data_set_are_stated_band_by_band():
    item = describe_model(CHECKPOINT.with_name("spectralgpt-tiny-zscore"))
    processor = SpectralGPTImageProcessor.from_pretrained(find_checkpoint("tiny-zscore"))
    limits = [processor.mean[band] for band in processor.bands]
    scaling = item["properties"]["mlm:input"][0]["value_scaling"]
    assert [entry["type"] for entry in scaling] == ["z-score"] * len(processor.bands)
    assert [entry["mean"] for entry in scaling] == limits
    assert problems(item, "mlm") == []


def test_the_schema_refuses_what_it_should():
    item = describe_model(CHECKPOINT)
    del item["properties"]["mlm:tasks"]
    assert problems(item, "mlm") != []
