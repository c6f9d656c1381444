from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from rasterio.enums import Interleaving
from rio_cogeo import cog_validate
from torch import nn

from spectralgpt_hf.inference import embed_scene
from spectralgpt_hf.modeling.rasters import read_raster

from .scenes import cut_corner, encoder, processor, read, segmenter, write_scene


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "scene_20200304.tif")


@pytest.fixture
def embed(tmp_path):
    def run(source, name="features.tif", model=None, **options):
        return embed_scene(model or encoder(), processor(), source, tmp_path / name, progress=False, **options)

    return run


def features_of(scene, window, model):
    inputs = processor()(read_raster(scene, window=window), statistics=processor().measure_statistics(scene))
    with torch.no_grad():
        return model.feature_map(model(**inputs).last_hidden_state, *window[2:])[0]


def test_a_map_of_features_is_a_georeferenced_cog_of_half_floats(scene, embed):
    path = embed(scene, overlap=0)
    with rasterio.open(scene) as source, rasterio.open(path) as result:
        assert (result.count, result.shape) == (32, (10, 12))
        assert result.transform == source.transform * source.transform.scale(8)
        assert result.crs == source.crs
        assert result.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16"
        assert "statistics" in result.tags()
        features = result.read()
    valid, errors, _ = cog_validate(str(path))
    assert valid, errors
    expected = features_of(scene, (32, 0, 32, 32), encoder())
    np.testing.assert_allclose(features[:, :4, 4:8], expected, atol=5e-3)


@pytest.mark.parametrize(("stride", "shape"), [(4, (19, 23)), (16, (5, 6)), (32, (3, 3))])
def test_features_come_at_any_stride(scene, embed, stride, shape):
    result = read(embed(scene, stride=stride, overlap=0))
    assert result.shape == (32, *shape)
    native = features_of(scene, (0, 0, 32, 32), encoder())[None]
    cells = 32 // stride
    mode = "area" if stride > 8 else "bilinear"
    expected = nn.functional.interpolate(native, (cells, cells), mode=mode)[0]
    np.testing.assert_allclose(result[:, :cells, :cells], expected, atol=5e-3)


def test_places_without_data_have_no_features(tmp_path, embed):
    ragged = write_scene(tmp_path / "ragged.tif", change=cut_corner, nodata=0)
    result = read(embed(ragged))
    valid = np.zeros((80, 96))
    valid[:75, :90] = read_raster(ragged).valid
    share = valid.reshape(10, 8, 12, 8).mean((1, 3))
    found = np.isfinite(result)
    assert (found.all(0) == found.any(0)).all()
    np.testing.assert_array_equal(found[0][share >= 0.5], True)
    np.testing.assert_array_equal(found[0][share == 0], False)


def test_vectors_of_chips_are_geoparquet(scene, embed):
    table = geopandas.read_parquet(embed(scene, "vectors.parquet"))
    with rasterio.open(scene) as source:
        native = source.crs.to_string()
        left, top = source.transform * (32, 32)
    assert table.crs.to_string() == "OGC:CRS84"
    assert len(table) == 9
    row = table[[[*box] == [32, 32, 64, 64] for box in table["pixel_bbox"]]].iloc[0]
    footprint = geopandas.GeoSeries.from_wkt([row.utm_footprint], crs=native)
    assert footprint[0].bounds == (left, top - 320, left + 320, top)
    assert row.geometry.exterior.is_ccw
    assert (str(row.timestamp.date()), row.product_id, row.utm_crs) == ("2020-03-04", "scene_20200304", native)
    inputs = processor()(read_raster(scene, window=(32, 32, 32, 32)), statistics=processor().measure_statistics(scene))
    with torch.no_grad():
        expected = encoder()(**inputs).pooler_output[0]
    np.testing.assert_allclose(row.embedding, expected, atol=1e-5)
    metadata = pq.read_schema(scene.parent / "vectors.parquet").metadata
    assert {b"statistics", b"weights"} <= metadata.keys()


def test_chips_may_overlap_and_those_without_data_have_no_row(tmp_path, embed):
    ragged = write_scene(tmp_path / "ragged.tif", change=cut_corner, nodata=0)
    table = geopandas.read_parquet(embed(ragged, "vectors.parquet", stride=16))
    corners = {(box[1], box[0]) for box in table["pixel_bbox"]}
    valid = read_raster(ragged).valid
    expected = {
        (top, left)
        for top in range(0, 49, 16)
        for left in range(0, 65, 16)
        if valid[top : top + 32, left : left + 32].any()
    }
    assert corners == expected
    assert len(expected) < 20


def test_all_features_of_a_pixel_lie_in_one_block_of_the_map(scene, embed):
    with rasterio.open(embed(scene)) as result:
        assert result.interleaving == Interleaving.pixel
        height, width = result.block_shapes[0]
        assert height * width * result.count * 2 <= 2**20


def test_integers_and_their_scales_give_the_map_back(scene, embed):
    expected = embed(scene, "whole.tif", dtype="float32")
    path = embed(scene, "integers.tif", dtype="int8")
    with rasterio.open(path) as result:
        assert (result.dtypes[0], result.nodata) == ("int8", -128)
        restored = result.read().astype(float) * np.array(result.scales)[:, None, None]
    whole = read(expected)
    valid = np.isfinite(whole).all(0)
    vectors, found = whole[:, valid], restored[:, valid]
    cosines = (vectors * found).sum(0) / np.linalg.norm(vectors, axis=0) / np.linalg.norm(found, axis=0)
    assert cosines.min() > 0.999
    assert np.abs(vectors).max(1) == pytest.approx(np.abs(found).max(1), rel=1e-3)
    valid, errors, _ = cog_validate(str(path))
    assert valid, errors


def test_a_large_map_of_coarse_integers_is_warned_of_once(scene, embed, monkeypatch):
    parts = []
    monkeypatch.setattr("spectralgpt_hf.inference.outputs.least_cosine", lambda *_: 0.9 - len(parts.append(0) or parts))
    with pytest.warns(UserWarning, match="cosine") as caught:
        embed(scene, dtype="int8")
    assert len(parts) > len(caught) == 1


def test_a_tag_that_is_no_name_of_a_product_is_not_taken_for_one(scene, embed):
    for product, expected in (("S2A_MSIL1C_X", "S2A_MSIL1C_X"), ("reflectance x 10000", Path(scene).stem)):
        with rasterio.open(scene, "r+") as file:
            file.update_tags(product=product)
        table = pq.read_table(embed(scene, f"{len(product)}.parquet"))
        assert set(table["product_id"].to_pylist()) == {expected}


def test_integers_mark_cells_without_data(tmp_path, embed):
    ragged = write_scene(tmp_path / "ragged.tif", change=cut_corner, nodata=0)
    lost = np.isnan(read(embed(ragged, "whole.tif"))[0])
    assert lost.any()
    np.testing.assert_array_equal(read(embed(ragged, "integers.tif", dtype="int8")) == -128, np.tile(lost, (32, 1, 1)))


def assert_same(first, other):
    """Compare tables byte by byte, and maps value by value: what blocks hold beyond the edge of a map is left open."""
    if first.suffix == ".parquet":
        assert first.read_bytes() == other.read_bytes()
        return
    np.testing.assert_array_equal(read(first), read(other))
    with rasterio.open(first) as one, rasterio.open(other) as two:
        assert (one.transform, one.dtypes, one.tags()) == (two.transform, two.dtypes, two.tags())


def test_how_the_work_is_divided_changes_no_value(scene, embed):
    for name, dtype in [("map.tif", None), ("integers.tif", "int8"), ("vectors.parquet", None)]:
        first = embed(scene, f"first_{name}", workers=1, dtype=dtype)
        other = embed(scene, f"other_{name}", workers=3, batch_size=5, memory_limit=40 * 2**20, dtype=dtype)
        assert_same(first, other)


def test_any_model_with_the_encoder_embeds(scene, embed):
    model = segmenter()
    assert_same(embed(scene, "a.tif", model=model), embed(scene, "b.tif", model=model.spectralgpt))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("features.png", {}, "ends with .tif"),
        ("features.tif", {"dtype": "int4"}, "one of float32, float16, int8"),
        ("features.tif", {"stride": 0}, "positive `stride`"),
        ("features.tif", {"stride": 12, "tile_size": 32}, "of `stride` \\(12 px\\)"),
    ],
)
def test_what_cannot_be_done_is_said(scene, embed, name, options, expected):
    with pytest.raises(ValueError, match=expected):
        embed(scene, name, **options)
