import json

import geopandas
import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.inference import embed_scene
from spectralgpt_hf.inference.similar_sites import search_embeddings, write_geojson

from .scenes import encoder, processor, write_scene


@pytest.fixture
def tables(tmp_path):
    """Return a folder with the embeddings of two scenes that do not overlap."""
    for number in range(2):
        scene = write_scene(tmp_path / f"scene{number}.tif", left=250 * number, width=128, height=96)
        (tmp_path / "tables").mkdir(exist_ok=True)
        embed_scene(encoder(), processor(), scene, tmp_path / "tables" / f"{number}.parquet", progress=False)
    return tmp_path / "tables"


def read_tables(folder):
    """Return all tables of a folder as one."""
    return pandas.concat(map(geopandas.read_parquet, sorted(folder.glob("*.parquet"))), ignore_index=True)


def nearest(table, row):
    """Rank all other rows by cosine, the plain way."""
    vectors = np.stack(table["embedding"].to_list()).astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors[row]
    order = [other for other in np.argsort(-similarities) if other != row]
    return [table["unique_id"].iloc[other] for other in order], similarities[order]


def test_the_most_similar_sites_come_first(tables):
    table = read_tables(tables)
    like = (table["centre_lon"].iloc[5], table["centre_lat"].iloc[5])
    site, found = search_embeddings(tables, like, top=7)
    expected, similarities = nearest(table, 5)
    assert site.unique_id == table["unique_id"].iloc[5]
    assert [other.unique_id for other in found] == expected[:7]
    np.testing.assert_allclose([other.similarity for other in found], similarities[:7], atol=1e-5)
    assert {other.product_id for other in found} == {"scene0", "scene1"}


def test_the_nearest_neighbours_are_the_same_after_int8(tmp_path):
    scene = write_scene(tmp_path / "scene.tif", width=200, height=200)
    for dtype in ("float32", "int8"):
        path = tmp_path / f"{dtype}.parquet"
        embed_scene(encoder(), processor(), scene, path, stride=32, dtype=dtype, progress=False)
    whole, integers = (geopandas.read_parquet(tmp_path / f"{dtype}.parquet") for dtype in ("float32", "int8"))
    restored = np.stack(integers["embedding"].to_list()) * integers["embedding_scale"].to_numpy()[:, None]
    vectors = np.stack(whole["embedding"].to_list())
    cosines = (vectors * restored).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(restored, axis=1)
    assert cosines.min() >= 0.999
    compared = 0
    for row in range(len(whole)):
        like = (whole["centre_lon"].iloc[row], whole["centre_lat"].iloc[row])
        (first, second), (found,) = (
            search_embeddings(tmp_path / f"{dtype}.parquet", like, top=top)[1]
            for dtype, top in (("float32", 2), ("int8", 1))
        )
        if first.similarity - second.similarity > 1e-4:  # closer ones may be in another order
            assert found.geometry == first.geometry
            compared += 1
    assert compared > len(whole) // 2


def test_results_are_geojson(tables, tmp_path):
    table = read_tables(tables)
    _, found = search_embeddings(tables, (table["centre_lon"].iloc[0], table["centre_lat"].iloc[0]), top=3)
    write_geojson(tmp_path / "found.geojson", found)
    features = geopandas.read_file(tmp_path / "found.geojson")
    assert features["rank"].to_list() == [1, 2, 3]
    chosen = table.set_index("unique_id").loc[[site.unique_id for site in found]]
    assert features.geometry.geom_equals_exact(chosen.geometry.reset_index(drop=True), 1e-9).all()
    assert json.loads((tmp_path / "found.geojson").read_text())["type"] == "FeatureCollection"


def test_a_table_is_never_replaced_by_the_results(tables, tmp_path):
    table = read_tables(tables)
    path, like = tables / "0.parquet", f"{table['centre_lon'].iloc[0]},{table['centre_lat'].iloc[0]}"
    before = path.read_bytes()
    arguments = ["search", str(path), "--like", like, "--overwrite", "--output"]
    result = CliRunner().invoke(app, [*arguments, str(path)])
    assert result.exit_code != 0
    assert path.read_bytes() == before
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "missing" / "found.geojson")])
    assert "no such folder" in " ".join(result.output.split())
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "found.geojson")]).exit_code == 0
    assert len(json.loads((tmp_path / "found.geojson").read_text())["features"]) > 0


def test_overlapping_chips_of_the_site_itself_are_left_out(tmp_path):
    path = tmp_path / "dense.parquet"
    embed_scene(encoder(), processor(), write_scene(tmp_path / "scene.tif"), path, stride=8, progress=False)
    table = geopandas.read_parquet(path)
    point = table.geometry.iloc[20].centroid
    site, found = search_embeddings(path, (point.x, point.y), top=500)
    holds = table.geometry.bounds.apply(lambda b: b.minx <= point.x <= b.maxx and b.miny <= point.y <= b.maxy, axis=1)
    assert holds.sum() > 4
    assert site.unique_id == table["unique_id"].iloc[20]
    assert {other.unique_id for other in found} == set(table["unique_id"][~holds])


def test_what_cannot_be_searched_is_said(tables, tmp_path):
    with pytest.raises(ValueError, match=r"found no chip that contains 0, 0"):
        search_embeddings(tables, (0, 0))
    with pytest.raises(FileNotFoundError, match="found no table of embeddings"):
        search_embeddings(tmp_path / "nothing", (0, 0))
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"text\.parquet: expected a table of embeddings"):
        search_embeddings(tmp_path / "text.parquet", (0, 0))
    scene = write_scene(tmp_path / "scene.tif")
    embed_scene(encoder(seed=1), processor(), scene, tables / "other.parquet", progress=False)
    with pytest.raises(ValueError, match="embeddings of one model, found 2 models"):
        search_embeddings(tables, (0, 0))
