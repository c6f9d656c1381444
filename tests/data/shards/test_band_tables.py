"""Parquet files with one GeoTIFF per band, as Major TOM publishes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from affine import Affine

from spectralgpt_hf.data import load_shards, prepare_shards
from spectralgpt_hf.data.shards.band_tables import list_rows, unpacked
from spectralgpt_hf.modeling.bands import BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster
from tests.data.files import UTM, write_image


@pytest.fixture
def table(tmp_path):
    """Three rows in the columns of Major TOM Core, two of them in one row group."""
    rows = []
    for number in range(3):
        row = {"product_id": f"S2B_MSIL2A_2020022{number + 1}T033739_R061_T48TXR", "grid_cell": "922D_249R"}
        for band in L2A_BANDS:
            step = BANDS[band].resolution
            pixels = np.full((1, 240 // step, 240 // step), 1000 + 100 * number + L2A_BANDS.index(band), np.uint16)
            georeference = UTM | {"transform": Affine(step, 0, 690000, 0, -step, 5340000)}
            row[f"B{band[1:]:0>2}"] = write_image(tmp_path / "band.tif", pixels, **georeference).read_bytes()
        rows.append(row | {"cloud_mask": row["B02"], "thumbnail": b"png"})
    (tmp_path / "core").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "core" / "part_00001.parquet", row_group_size=2)
    return tmp_path / "core" / "part_00001.parquet"


def test_a_row_is_a_product_of_its_date(table):
    names = list_rows(str(table))
    assert [name.rpartition("::")[2] for name in names] == ["0", "1", "2"]
    for number, name in enumerate(names):
        with unpacked(name) as folder:
            raster = read_raster(folder)
            assert raster.pixels[:, 5, 5].tolist() == [1000 + 100 * number + band for band in range(12)]
            assert raster.tags["date"] == f"2020-02-2{number + 1}"
        assert not Path(folder).exists()
    with unpacked("scene.tif") as path:
        assert path == "scene.tif"


@pytest.mark.parametrize("dataset", ["folder", "scenes"])
def test_each_row_becomes_a_sample(dataset, table, tmp_path):
    options = {"size": 24} if dataset == "scenes" else {}
    shards = prepare_shards(table.parent, tmp_path / "shards", dataset, num_workers=1, **options)
    found = {row["id"]: row for row in load_shards(shards)}
    suffix = "_0_0" if dataset == "scenes" else ""
    assert set(found) == {f"part_00001_{number}{suffix}" for number in range(3)}
    assert found[f"part_00001_2{suffix}"]["pixels"][:, 0, 0].tolist() == [1200 + band for band in range(12)]
    assert found[f"part_00001_0{suffix}"]["date"] == "2020-02-21"


def test_other_parquet_files_are_refused_with_advice(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: expected a Parquet file whose columns .* `load_shards`"):
        prepare_shards(tmp_path / "a.parquet", tmp_path / "shards")
    with pytest.raises(FileNotFoundError, match="expected a folder with GeoTIFFs"):
        prepare_shards(tmp_path, tmp_path / "shards", "folder")
    write_image(tmp_path / "image.tif", np.ones((12, 16, 16), np.uint16) * 500, **UTM)
    beside = prepare_shards(tmp_path, tmp_path.with_name("beside"), "folder", band_names=L2A_BANDS, num_workers=1)
    assert [row["id"] for row in load_shards(beside)] == ["image"]  # tables of metadata are no samples
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"b\.parquet: cannot be read as Parquet"):
        list_rows(str(tmp_path / "b.parquet"))
