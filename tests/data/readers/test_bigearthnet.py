import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from spectralgpt_hf.data import load_bigearthnet_v1, load_bigearthnet_v2
from spectralgpt_hf.data.readers.bigearthnet import BIGEARTHNET_19_CLASSES, BIGEARTHNET_43_CLASSES
from spectralgpt_hf.modeling.bands import BANDS, BIGEARTHNET_BANDS

from ..files import UTM, write_image


V1_PATCHES = ["S2A_MSIL2A_20170613T101031_87_48", "S2B_MSIL2A_20170924T93020_69_24", "S2A_MSIL2A_20170617T113321_4_55"]
V2_PATCHES = [
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_27_02",
    "S2B_MSIL2A_20180204T094161_N9999_R136_T35VMK_00_09",
]


def write_patch(folder, patch, value):
    """One uint16 file per band, 120, 60 or 20 px on a side, without nodata. They hold `value` plus their resolution."""
    for name in BIGEARTHNET_BANDS:
        resolution = BANDS[name].resolution
        side = 1200 // resolution
        transform = rasterio.Affine(resolution, 0, 690000, 0, -resolution, 5340000)
        file = folder / patch / f"{patch}_{name if name == 'B8A' else f'B{int(name[1:]):02}'}.tif"
        write_image(file, np.full((side, side), value + resolution, np.uint16), crs=UTM["crs"], transform=transform)


@pytest.fixture(scope="module")
def version_1(tmp_path_factory):
    root = tmp_path_factory.mktemp("v1")
    labels = [
        ["Airports", "Rice fields", "Vineyards", "Non-irrigated arable land"],
        ["Transitional woodland/shrub", "Peatbogs"],
        ["Bare rock"],
    ]
    for patch, names in zip(V1_PATCHES, labels):
        write_patch(root / "BigEarthNet-v1.0", patch, 100)
        metadata = {
            "labels": names,
            "coordinates": {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200},
            "projection": "",
            "tile_source": "S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608.SAFE",
            "acquisition_date": "2017-06-13 10:10:31",
        }
        (root / "BigEarthNet-v1.0" / patch / f"{patch}_labels_metadata.json").write_text(json.dumps(metadata))
    (root / "bigearthnet-train.csv").write_text(f"{V1_PATCHES[1]},S1A_IW_GRDH_1SDV_20170924T044024_33UUP_69_24\n")
    (root / "bigearthnet-val.csv").write_text("\n".join(f"{patch},S1B" for patch in V1_PATCHES[::2]))
    return root


@pytest.fixture(scope="module")
def version_2(tmp_path_factory):
    root = tmp_path_factory.mktemp("v2")
    for patch in V2_PATCHES:
        tile = patch[:-6]
        write_patch(root / "BigEarthNet-S2" / tile, patch, 100)
        codes = np.full((120, 120), 111, np.uint16)
        codes[0, :5] = 112, 243, 324, 523, 122  # roads, the last, are none of the 19 classes
        codes[1, :2] = 335, 999
        write_image(root / "Reference_Maps" / tile / patch / f"{patch}_reference_map.tif", codes, **UTM)
    columns = {
        "patch_id": V2_PATCHES,
        "labels": [["Marine waters", "Arable land"], ["Transitional woodland, shrub"], ["Urban fabric"]],
        "split": ["train", "validation", "train"],
        "country": ["Austria", "Austria", "Finland"],
        "s1_name": ["", "", ""],
        "s2v1_name": ["", "", ""],
        "contains_seasonal_snow": [False] * 3,
        "contains_cloud_or_shadow": [False] * 3,
    }
    pq.write_table(pa.table(columns), root / "metadata.parquet")
    return root


def test_the_nomenclature_merges_43_classes_into_19():
    assert (len(BIGEARTHNET_43_CLASSES), len(set(BIGEARTHNET_43_CLASSES))) == (43, 43)
    assert len(BIGEARTHNET_19_CLASSES) == 19
    assert BIGEARTHNET_19_CLASSES[0] == "Urban fabric"
    assert BIGEARTHNET_19_CLASSES[13] == "Transitional woodland, shrub"
    assert BIGEARTHNET_19_CLASSES[18] == "Marine waters"


def test_version_1_has_19_or_43_classes(version_1):
    dataset = load_bigearthnet_v1(version_1, "all")
    labels = dict(zip(dataset["id"], dataset["labels"]))
    names = dataset.features["labels"].feature.names
    assert [[names[label] for label in labels[patch]] for patch in V1_PATCHES] == [
        ["Arable land", "Permanent crops"],
        ["Transitional woodland, shrub", "Inland wetlands"],
        [],
    ]
    dataset = load_bigearthnet_v1(version_1, V1_PATCHES, num_classes=43)
    assert dataset.features["labels"].feature.num_classes == 43
    assert [len(labels) for labels in dataset["labels"]] == [4, 2, 1]
    with pytest.raises(ValueError, match="19 or 43, got 10"):
        load_bigearthnet_v1(version_1, num_classes=10)


def test_version_1_splits_follow_the_official_lists_or_the_users(version_1, tmp_path):
    assert load_bigearthnet_v1(version_1)["id"][:] == V1_PATCHES[1:2]
    assert load_bigearthnet_v1(version_1, "validation")["id"][:] == V1_PATCHES[::2]
    (tmp_path / "mine.csv").write_text(V1_PATCHES[0])
    assert load_bigearthnet_v1(version_1 / "BigEarthNet-v1.0", tmp_path / "mine.csv")["id"][:] == V1_PATCHES[:1]
    with pytest.raises(FileNotFoundError, match=r"expected bigearthnet-test\.csv"):
        load_bigearthnet_v1(version_1, "test")


def test_coarser_bands_come_on_the_10_m_grid(version_1):
    row = load_bigearthnet_v1(version_1)[0]
    assert row["pixels"].shape == (12, 120, 120)
    assert row["bands"] == list(BIGEARTHNET_BANDS)
    for band, pixels in zip(row["bands"], row["pixels"]):
        assert (pixels == 100 + BANDS[band].resolution).all()


def test_damaged_patches_are_named(version_1, tmp_path):
    folder = tmp_path / "BigEarthNet-v1.0" / V1_PATCHES[0]
    shutil.copytree(version_1 / "BigEarthNet-v1.0" / V1_PATCHES[0], folder)
    band = folder / f"{V1_PATCHES[0]}_B05.tif"
    band.write_bytes(band.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{V1_PATCHES[0]}.*"):
        load_bigearthnet_v1(tmp_path, "all")[0]
    band.unlink()
    with pytest.raises(ValueError, match=rf"{V1_PATCHES[0]}: no band B5"):
        load_bigearthnet_v1(tmp_path, "all")[0]
    labels = folder / f"{V1_PATCHES[0]}_labels_metadata.json"
    for content, message in (
        ('{"labels": ["Sea ice"]}', "unknown label 'Sea ice'; expected one of Continuous urban fabric"),
        ('{"labels": "Airports"}', "expected JSON with a list of class names"),
        ('{"lab', "expected JSON with a list of class names"),
    ):
        labels.write_text(content)
        with pytest.raises(ValueError, match=rf"_labels_metadata\.json: {message}"):
            load_bigearthnet_v1(tmp_path, "all")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"_labels_metadata\.json: no such file"):
        load_bigearthnet_v1(tmp_path, V1_PATCHES[:1])


def test_version_2_takes_labels_and_splits_from_the_metadata(version_2):
    dataset = load_bigearthnet_v2(version_2)
    assert dataset["id"][:] == V2_PATCHES[::2]
    assert dataset["labels"][:] == [[2, 18], [0]]
    assert load_bigearthnet_v2(version_2, "val")["id"][:] == V2_PATCHES[1:2]
    assert len(load_bigearthnet_v2(version_2, "all")) == 3
    assert load_bigearthnet_v2(version_2, V2_PATCHES[:1])[0]["pixels"].shape == (12, 120, 120)
    with pytest.raises(ValueError, match=r"metadata\.parquet: expected all patches .* 'S2A_x' and 0 more are"):
        load_bigearthnet_v2(version_2, ["S2A_x"])
    with pytest.raises(ValueError, match=r"metadata\.parquet: no patch in a share of 1\.0 of the split 'test'"):
        load_bigearthnet_v2(version_2, "test")


def test_reference_maps_become_19_classes_and_the_rest_is_ignored(version_2):
    dataset = load_bigearthnet_v2(version_2, reference_maps=True)
    labels = dataset[0]["segmentation_map"]
    assert labels[0, :6].tolist() == [0, 6, 13, 18, 255, 0]
    assert labels[1, :3].tolist() == [255, 255, 0]
    assert dataset.features["segmentation_map"].names == list(BIGEARTHNET_19_CLASSES)


def test_version_2_metadata_are_checked(version_2, tmp_path):
    (tmp_path / "metadata.parquet").write_bytes((version_2 / "metadata.parquet").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"metadata\.parquet: expected a Parquet table"):
        load_bigearthnet_v2(tmp_path)
    table = pa.table({"patch_id": V2_PATCHES[:1], "labels": [["Airports"]], "split": ["train"]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=rf"metadata\.parquet, {V2_PATCHES[0]}: unknown label 'Airports'"):
        load_bigearthnet_v2(tmp_path)
    pq.write_table(table.drop(["split"]), tmp_path / "metadata.parquet")
    with pytest.raises(
        ValueError, match=r"metadata\.parquet: expected a Parquet table with patch_id, labels and split"
    ):
        load_bigearthnet_v2(tmp_path)


def test_ten_percent_are_the_same_patches_for_a_seed(tmp_path):
    patches = [
        f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{number // 90:02}_{number % 90:02}" for number in range(500)
    ]
    table = pa.table({"patch_id": patches, "labels": [["Pastures"]] * 500, "split": ["train"] * 500})
    pq.write_table(table, tmp_path / "metadata.parquet")
    write_patch(tmp_path / "BigEarthNet-S2" / patches[0][:-6], patches[0], 100)
    for patch in patches:
        (tmp_path / "BigEarthNet-S2" / patch[:-6] / patch).mkdir(exist_ok=True)
        (tmp_path / "BigEarthNet-S2" / patch[:-6] / patch / f"{patch}_B02.tif").touch()
    subset = load_bigearthnet_v2(tmp_path, share=0.1)["id"][:]
    assert len(subset) == 50
    assert subset == sorted(subset)
    assert load_bigearthnet_v2(tmp_path, share=0.1)["id"][:] == subset
    assert load_bigearthnet_v2(tmp_path, share=0.1, seed=1)["id"][:] != subset


def test_genuine_patches_are_read_as_distributed(shared_data):
    dataset = load_bigearthnet_v1(shared_data, "all", num_classes=43)
    assert len(dataset) == 6
    names = dataset.features["labels"].feature.names
    for row in dataset:
        folder = shared_data / "bigearthnet" / row["id"]
        stated = json.loads((folder / f"{row['id']}_labels_metadata.json").read_text())["labels"]
        assert sorted(names[label] for label in row["labels"]) == sorted(stated)
        with rasterio.open(folder / f"{row['id']}_B04.tif") as file:
            np.testing.assert_array_equal(row["pixels"][row["bands"].index("B4")], file.read(1))
        with rasterio.open(folder / f"{row['id']}_B11.tif") as file:
            coarse = row["pixels"][row["bands"].index("B11")].reshape(60, 2, 60, 2).mean((1, 3))
            # Bilinear interpolation spreads a pixel over its neighbours, and must not shift it.
            assert np.corrcoef(coarse.ravel(), file.read(1).ravel())[0, 1] > 0.97
    merged = load_bigearthnet_v1(shared_data, "all")
    assert all(row["labels"] for row in merged.remove_columns("pixels"))
