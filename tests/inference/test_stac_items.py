"""STAC items beside embeddings, held to the schema of the embedding extension."""

import json

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.inference import embed_scene
from spectralgpt_hf.inference.stac_items import item_path, write_collection
from tests.stac import problems

from .scenes import encoder, processor, write_scene


def embed(scene, name, model=None, **options):
    path = embed_scene(model or encoder(), processor(), scene, scene.with_name(name), progress=False, **options)
    return json.loads(item_path(path).read_text())


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.tif", None), ("b.tif", "int8"), ("c.parquet", None), ("d.parquet", "int8")]
)
def test_an_item_beside_each_result_fits_the_schema(tmp_path, name, dtype):
    item = embed(write_scene(tmp_path / "scene_20200304.tif"), name, dtype=dtype)
    assert problems(item, "embeddings") == []
    assert item["properties"]["datetime"] == "2020-03-04T00:00:00Z"
    assert item["properties"]["proj:epsg"] == 32618
    assert (tmp_path / item["assets"]["embeddings"]["href"]).is_file()
    links = {link["rel"]: link["href"] for link in item["links"]}
    assert links["emb:source-data"] == "scene_20200304.tif"
    scales = item["properties"].get("emb:quantization", {}).get("scale")
    if name == "b.tif":
        with rasterio.open(tmp_path / name) as dataset:
            np.testing.assert_allclose(scales, dataset.scales)


def test_the_schema_refuses_what_it_should(tmp_path):
    item = embed(write_scene(tmp_path / "scene.tif"), "a.tif")
    item["properties"]["emb:dimensions"] = 32
    assert problems(item, "embeddings") != []


def test_a_scene_without_a_date_or_georeference_still_has_a_sound_item(tmp_path):
    scene = write_scene(tmp_path / "scene.tif")
    with rasterio.open(scene) as source:
        pixels, names = source.read(), source.descriptions
    plain = tmp_path / "plain.tif"
    with rasterio.open(plain, "w", driver="GTiff", count=13, height=75, width=90, dtype="uint16") as dataset:
        dataset.write(pixels)
        dataset.descriptions = names
    item = embed(plain, "features.tif")
    assert problems(item, "embeddings") == []
    assert item["geometry"] is None
    assert item["properties"]["datetime"] is None


def test_the_model_link_leads_to_the_item_of_the_checkpoint(tmp_path):
    scene, model = write_scene(tmp_path / "scene.tif"), encoder()
    model.config._name_or_path = str(tmp_path / "checkpoint")
    (tmp_path / "checkpoint").mkdir()
    links = {link["rel"]: link["href"] for link in embed(scene, "a.tif", model)["links"]}
    assert links["emb:model"] == "checkpoint/stac_item.json"
    model.config._name_or_path = "org/model"
    links = {link["rel"]: link["href"] for link in embed(scene, "b.tif", model)["links"]}
    assert links["emb:model"] == "https://huggingface.co/org/model/resolve/main/stac_item.json"


def test_a_collection_over_items_fits_the_schema(tmp_path):
    items = {}
    for number in range(2):
        scene = write_scene(tmp_path / f"scene{number}_2020030{number + 1}.tif", left=100 * number)
        items[f"{number}.json"] = embed(scene, f"{number}.parquet")
    fields = {"emb:type": "chip", "emb:dimensions": 32, "data_type": "float32"}
    write_collection(tmp_path / "collection.json", items, title="Two", description="Two scenes.", fields=fields)
    collection = json.loads((tmp_path / "collection.json").read_text())
    assert problems(collection, "embeddings") == []
    assert collection["extent"]["temporal"]["interval"] == [["2020-03-01T00:00:00Z", "2020-03-02T00:00:00Z"]]
    west, _, east, _ = collection["extent"]["spatial"]["bbox"][0]
    for item in items.values():
        assert west <= item["bbox"][0] < item["bbox"][2] <= east
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == ["./0.json", "./1.json"]
