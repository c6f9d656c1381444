"""STAC items beside embeddings, held to the schema of the embedding extension."""

import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform
from shapely.geometry import shape

from spectralgpt_hf import SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.inference import embed_scene
from spectralgpt_hf.inference.stac_items import item_path, write_collection
from tests.modeling.products import write_geotiff
from tests.stac import problems

from .scenes import build, encoder, processor, write_scene


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
    assert item["properties"]["start_datetime"] == "2015-06-23T00:00:00Z"


@pytest.mark.parametrize("match", [None, "wavelength"])
def test_a_scene_of_another_sensor_without_a_date_has_the_period_of_that_sensor(tmp_path, match):
    bands = ["B1", "B2", "B3", "B4", "B5", "B7"]
    pixels = np.random.default_rng(0).integers(8000, 20000, (6, 64, 64)).astype(np.uint16)
    path = write_geotiff(tmp_path / "scene.tif", pixels, names=bands)
    own = {"sensor": "landsat-5", "bands": bands} if match is None else {"bands": ["B2", "B3", "B4"]}
    model = build(SpectralGPTModel, **own, num_channels=len(own["bands"]))
    result = embed_scene(
        model,
        SpectralGPTImageProcessor(**model.config.band_settings()),
        path,
        tmp_path / "a.tif",
        sensor="landsat-5",
        match=match,
        progress=False,
    )
    properties = json.loads(item_path(result).read_text())["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "1982-07-16T00:00:00Z"


def test_an_item_across_the_antimeridian_is_split_and_its_bounds_begin_in_the_west(tmp_path):
    (left,), (top,) = transform("EPSG:4326", "EPSG:32760", [180], [-17])
    for name, start in (("west", left - 5000), ("across", left - 450)):
        with rasterio.open(write_scene(tmp_path / f"{name}.tif"), "r+") as scene:
            scene.crs, scene.transform = "EPSG:32760", from_origin(start, top, 10, 10)
    items = {name: embed(tmp_path / f"{name}.tif", f"{name}.parquet") for name in ("west", "across")}
    assert problems(items["across"], "embeddings") == []
    assert items["west"]["geometry"]["type"] == "Polygon"
    split = shape(items["across"]["geometry"])
    assert split.geom_type == "MultiPolygon"
    assert all(part.exterior.is_ccw for part in split.geoms)
    assert split.bounds[0] == pytest.approx(-180)
    assert split.bounds[2] == pytest.approx(180)
    assert split.area == pytest.approx(shape(items["west"]["geometry"]).area, rel=0.01)
    west, south, east, north = items["across"]["bbox"]
    assert west > 179.99 > -179.99 > east
    assert south < north
    fields = {"emb:type": "chip", "emb:dimensions": 32, "data_type": "float32"}
    write_collection(tmp_path / "collection.json", items, title="Fiji", description="Fiji.", fields=fields)
    box = json.loads((tmp_path / "collection.json").read_text())["extent"]["spatial"]["bbox"][0]
    assert box[::2] == [items["west"]["bbox"][0], east]


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
