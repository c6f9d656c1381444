"""The STAC item of a checkpoint, held to the schema of the extension for machine learning models."""

import json

import pytest

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor, SpectralGPTModel
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
