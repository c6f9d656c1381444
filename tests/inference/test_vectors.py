"""Tables of vectors as their readers see them: geopandas, pyarrow and DuckDB."""

import json

import geopandas
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyproj import Transformer
from rasterio.crs import CRS
from shapely import from_wkt
from shapely.geometry import Point

from spectralgpt_hf.inference.vectors import ROW_GROUP, Chips, bounds_of, timestamp, write_geoparquet


MAJOR_TOM = {
    *("unique_id", "embedding", "timestamp", "product_id", "grid_cell", "grid_row_u", "grid_col_r", "geometry"),
    *("centre_lat", "centre_lon", "utm_footprint", "utm_crs", "pixel_bbox"),
}


def write(path, epsg=32633, count=12, left=500_000.0, top=5_300_000.0, dtype="float32", **options):
    """Write a row of chips of 1280 m, from left to right."""
    starts = np.arange(count) * 128
    boxes = np.stack([starts, np.zeros(count, int), starts + 128, np.full(count, 128)], 1)
    x, y = left + boxes[:, [0, 0, 2, 2]] * 10.0, top - boxes[:, [1, 3, 3, 1]] * 10.0
    vectors = np.random.default_rng(epsg).normal(size=(count, 24)).astype(np.float32)
    chips = Chips(boxes, np.stack([x, y], -1), vectors, epsg and CRS.from_epsg(epsg))
    given = {"product": f"scene{epsg}", "date": "2020-03-04T10:20:30Z", "model": "m", "tags": {"model": "m"}, **options}
    write_geoparquet(path, chips, dtype=dtype, **given)
    return chips


def read_bounds(path):
    """Return the column `bbox`, which geopandas takes as the covering of the footprints and leaves out."""
    return pq.read_table(path)["bbox"].to_pylist()


def test_two_utm_zones_are_one_table_with_the_footprints_of_pyproj(tmp_path):
    for epsg in (32632, 32633):
        write(tmp_path / f"{epsg}.parquet", epsg)
    table = geopandas.read_parquet(tmp_path)
    assert len(table) == 24
    assert sorted(table["utm_crs"].unique()) == ["EPSG:32632", "EPSG:32633"]
    assert set(table.columns) >= MAJOR_TOM
    for row in table.itertuples():
        corners = np.array(from_wkt(row.utm_footprint).exterior.coords)
        expected = Transformer.from_crs(row.utm_crs, "OGC:CRS84", always_xy=True).transform(*corners.T)
        np.testing.assert_allclose(np.array(row.geometry.exterior.coords).T, expected, rtol=0, atol=1e-9)
        assert row.geometry.contains(Point(row.centre_lon, row.centre_lat))
    assert table["unique_id"].is_unique


def test_duckdb_reads_every_type_and_finds_by_bounds(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    for dtype in ("float32", "float16", "int8"):
        path = tmp_path / f"{dtype}.parquet"
        chips = write(path, dtype=dtype)
        west, east = pq.read_table(path)["bbox"].to_pylist()[3]["xmin"], 180
        where = f"bbox.xmin >= {west} AND bbox.xmax < {east}"
        rows = duckdb.sql(f"SELECT embedding FROM '{path}' WHERE {where} ORDER BY bbox.xmin").fetchall()
        assert len(rows) == 9
        scale = pq.read_table(path)["embedding_scale"][3].as_py() if dtype == "int8" else 1
        np.testing.assert_allclose(np.array(rows[0][0]) * scale, chips.vectors[3], atol=0.02)


def test_bounds_cover_the_footprints_and_row_groups_are_small(tmp_path):
    path = tmp_path / "many.parquet"
    write(path, count=2 * ROW_GROUP + 1, left=0.0)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 1]
    assert file.metadata.row_group(0).column(0).has_offset_index
    assert file.metadata.row_group(0).column(0).has_column_index
    table = geopandas.read_parquet(path)
    bounds = np.array([[box[edge] for edge in ("xmin", "ymin", "xmax", "ymax")] for box in read_bounds(path)])
    np.testing.assert_array_equal(bounds, table.geometry.bounds.to_numpy())
    few = geopandas.read_parquet(path, bbox=tuple(bounds[5]))
    assert 1 <= len(few) < 10


def test_chips_across_the_antimeridian_are_two_polygons(tmp_path):
    write(tmp_path / "fiji.parquet", 32760, left=812_000.0, top=8_100_000.0)
    table = geopandas.read_parquet(tmp_path / "fiji.parquet")
    kinds = table.geometry.geom_type.value_counts()
    assert kinds["MultiPolygon"] == 1
    assert kinds["Polygon"] == 11
    number = int(np.flatnonzero(table.geometry.geom_type == "MultiPolygon")[0])
    crossing, bounds = table.iloc[number], read_bounds(tmp_path / "fiji.parquet")[number]
    assert bounds["xmin"] > 179 > -179 > bounds["xmax"]
    assert all(part.exterior.is_ccw for part in table.geometry.explode())
    assert {part.bounds[0] > 0 for part in crossing.geometry.geoms} == {True, False}
    geo = json.loads(pq.read_schema(tmp_path / "fiji.parquet").metadata[b"geo"])["columns"]["geometry"]
    assert geo["bbox"][0] > 179 > -179 > geo["bbox"][2]
    assert crossing.geometry.area == pytest.approx(table.geometry.iloc[0].area, rel=0.01)


def test_a_scene_without_georeference_has_vectors_without_geometry(tmp_path):
    write(tmp_path / "plain.parquet", None)
    table = ds.dataset(tmp_path / "plain.parquet").to_table()
    assert table["geometry"].null_count == table["grid_cell"].null_count == table["centre_lat"].null_count == 12
    assert table["embedding"].null_count == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-03-04", "2020-03-04T00:00:00+00:00"),
        ("2020-03-04T10:20:30Z", "2020-03-04T10:20:30+00:00"),
        ("2020-03-04T10:20:30+02:00", "2020-03-04T08:20:30+00:00"),
    ],
)
def test_dates_are_moments_in_utc(text, expected):
    assert timestamp(text).isoformat() == expected


@pytest.mark.parametrize("text", [None, "", "last spring"])
def test_other_texts_are_no_dates(text):
    assert timestamp(text) is None


def test_bounds_of_boxes_on_both_sides_of_the_antimeridian_hold_them_all():
    boxes = [(177.0, -17.0, 178.0, -16.0), (179.5, -17.5, -179.5, -16.5), (-179.0, -16.0, -178.0, -15.0)]
    assert bounds_of(np.array(boxes).T) == [177, -17.5, -178, -15]
    assert bounds_of(np.array(boxes[::2]).T) == [177, -17, -178, -15]
    assert bounds_of(np.array([*boxes, (-1.0, 0.0, 1.0, 1.0)]).T) == [-1, -17.5, -178, 1]
    assert bounds_of(np.array([*boxes, (-180.0, 0.0, 180.0, 1.0)]).T) == [-180, -17.5, 180, 1]
