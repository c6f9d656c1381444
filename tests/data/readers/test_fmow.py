import pytest
from affine import Affine

from spectralgpt_hf.data import load_fmow_sentinel
from spectralgpt_hf.modeling.bands import L1C_BANDS

from ..files import numbered_bands, write_image


HEADER = ",category,location_id,image_id,timestamp,polygon"
DEGREES = {"crs": "EPSG:4326", "transform": Affine(9e-5, 0, 32.6, 0, -9e-5, 15.4)}
POLYGON = '"POLYGON ((32.6 15.4, 32.7 15.4, 32.7 15.5, 32.6 15.4))"'


@pytest.fixture
def fmow(tmp_path):
    lines = [
        f"0,airport,0,6,2016-01-06T08:13:42Z,{POLYGON}",
        f"17,zoo,12,100,2018-07-01T10:00:00Z,{POLYGON}",
        f"18,multi-unit_residential,3,1,2018-07-01T10:00:00Z,{POLYGON}",
    ]
    (tmp_path / "train.csv").write_text("\n".join([HEADER, *lines]))
    (tmp_path / "test_gt.csv").write_text("\n".join([HEADER, lines[0]]))
    folder = tmp_path / "fmow-sentinel"
    write_image(folder / "train/airport/airport_0/airport_0_6.tif", numbered_bands(13, 45, 52), **DEGREES)
    write_image(folder / "train/zoo/zoo_12/zoo_12_100.tif", numbered_bands(13, 20, 31), **DEGREES)
    write_image(folder / "test_gt/airport/airport_0/airport_0_6.tif", numbered_bands(13, 30), **DEGREES)
    return tmp_path


def test_paths_are_built_from_category_location_and_image(fmow):
    dataset = load_fmow_sentinel(fmow)
    assert dataset["id"][:] == ["airport_0_6", "zoo_12_100", "multi-unit_residential_3_1"]
    assert [dataset[i]["pixels"].shape for i in (0, 1)] == [(13, 45, 52), (13, 20, 31)]
    assert dataset[0]["bands"] == list(L1C_BANDS)
    assert dataset[1]["date"] == "2018-07-01T10:00:00Z"
    assert dataset[0]["pixels"][8, 0, 0] == 9000  # B8A is ninth
    assert load_fmow_sentinel(fmow, "test")[0]["pixels"].shape == (13, 30, 30)
    with pytest.raises(FileNotFoundError, match=r"multi-unit_residential_3_1\.tif"):
        dataset[2]


def test_the_62_categories_are_alphabetical(fmow):
    label = load_fmow_sentinel(fmow).features["label"]
    assert label.num_classes == 62
    assert label.names == sorted(label.names)
    assert load_fmow_sentinel(fmow)["label"][:] == [0, 61, label.str2int("multi-unit_residential")]


def test_a_stated_image_path_counts_below_its_split(fmow):
    path = "/data/fmow-sentinel/train/zoo/zoo_12/zoo_12_100.tif"
    (fmow / "train.csv").write_text(f"{HEADER},image_path\n0,zoo,9,9,2018-07-01T10:00:00Z,{POLYGON},{path}\n")
    assert load_fmow_sentinel(fmow)[0]["pixels"].shape == (13, 20, 31)


def test_damaged_tables_are_named(fmow):
    (fmow / "val.csv").write_text(f"{HEADER}\n0,airfield,0,6,2016-01-06T08:13:42Z,{POLYGON}\n")
    with pytest.raises(ValueError, match=r"val\.csv, line 2: unknown label 'airfield'; expected one of airport, "):
        load_fmow_sentinel(fmow, "val")
    (fmow / "val.csv").write_text("image,label\na,b\n")
    with pytest.raises(ValueError, match=r"val\.csv: expected columns category, location_id, .*, found image, label"):
        load_fmow_sentinel(fmow, "validation")
    (fmow / "val.csv").write_text(HEADER)
    with pytest.raises(ValueError, match=r"val\.csv: expected a line for each image"):
        load_fmow_sentinel(fmow, "validation")
    with pytest.raises(FileNotFoundError, match=r"expected train\.csv"):
        load_fmow_sentinel(fmow / "fmow-sentinel")
    with pytest.raises(ValueError, match="one of train, validation, test, got 'all'"):
        load_fmow_sentinel(fmow, "all")
