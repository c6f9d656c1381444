import numpy as np
import pytest
import rasterio

from spectralgpt_hf.data import load_change_pairs, load_image_folder, load_image_masks
from spectralgpt_hf.modeling.bands import L1C_BANDS

from ..files import UTM, numbered_bands, write_image


RGB = ["B4", "B3", "B2"]


def write_images(folder, names, size=16):
    for name in names:
        write_image(folder / f"{name}.tif", numbered_bands(3, size), **UTM)


def write_maps(folder, names, value=1, size=16):
    for name in names:
        write_image(folder / f"{name}.png", np.full((size, size), value, np.uint8))


def test_a_folder_is_a_class_and_the_rest_is_held_out(tmp_path):
    write_images(tmp_path / "water", [f"2017/{number}" for number in range(10)])
    write_images(tmp_path / "land", range(10))
    splits = {
        name: load_image_folder(tmp_path, name, band_names=RGB) for name in ("train", "validation", "test", "all")
    }
    assert {name: len(dataset) for name, dataset in splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
        "all": 20,
    }
    parts = [set(splits[name]["id"]) for name in ("train", "validation", "test")]
    assert set.union(*parts) == set(splits["all"]["id"])
    row = next(row for row in splits["all"] if row["id"] == "water/2017/3")
    assert splits["all"].features["label"].int2str(row["label"]) == "water"
    assert row["bands"] == RGB
    np.testing.assert_array_equal(row["pixels"], numbered_bands(3, 16))


def test_a_table_gives_each_image_a_value_a_split_a_site_and_its_radiometry(tmp_path):
    write_images(tmp_path / "2020", ["a", "b", "left_out"])
    write_images(tmp_path / "2021", ["c"])
    table = "path,value,split,site,offset,nodata\n2020/a.tif,1.5,train,x,-1000,\n2020/b.tif,2,test,y,,1000\n"
    (tmp_path / "table.csv").write_text(table + "2021/c.tif,-3,train,x,,\n")
    train, test = (load_image_folder(tmp_path, name, band_names=RGB) for name in ("train", "test"))
    assert train.features["label"].dtype == "float32"
    assert dict(zip(train["id"], train["label"])) == {"2020/a": 1.5, "2021/c": -3}
    assert train["site"][:] == ["x", "x"]
    np.testing.assert_array_equal(train[0]["pixels"], numbered_bands(3, 16) - 1000.0)
    assert test["label"][:] == [2]
    assert not test[0]["pixels"][:, 0, 0].any()  # the value that the table declares
    with pytest.raises(ValueError, match="without `class_names`"):
        load_image_folder(tmp_path, band_names=RGB, class_names=["a"])
    (tmp_path / "table.csv").write_text("path,value\n2020/a.tif,1\n2020/b.tif,\n")
    with pytest.raises(ValueError, match="expected a `value` for every image, found none for"):
        load_image_folder(tmp_path, band_names=RGB)


def test_a_table_also_rules_the_folders_of_classes(tmp_path):
    write_images(tmp_path / "water", ["a", "b", "c"])
    write_images(tmp_path / "land", ["d"])
    (tmp_path / "table.csv").write_text("path,split,offset\nwater/a.tif,test,5\nwater/b.tif,train,\n")
    test = load_image_folder(tmp_path, "test", band_names=RGB)
    assert (test["id"][:], test["label"][:]) == (["water/a"], [1])
    np.testing.assert_array_equal(test[0]["pixels"], numbered_bands(3, 16) + 5)
    assert load_image_folder(tmp_path, "train", band_names=RGB)["id"][:] == ["water/b"]


@pytest.mark.parametrize("kind", ["lc", "dfc"])
def test_pairs_of_sen12ms_and_dfc2020_are_found_by_the_word_within_their_names(kind, tmp_path):
    data = tmp_path / "parent" / "data"
    for season, number in (("ROIs1158_spring", 1), ("ROIs1158_spring", 44), ("ROIs1868_summer", 1)):
        for patch in (30, 31):
            name = "{0}/{2}_{1}/{0}_{2}_{1}_p{3}.tif"
            write_image(data / name.format(season, number, "s2", patch), numbered_bands(13, 16), **UTM)
            write_image(data / name.format(season, number, "s1", patch), numbered_bands(2, 16), **UTM)
            codes = np.stack([np.full((16, 16), 10 * (scheme + 1) + patch, np.uint8) for scheme in range(4)])
            write_image(data / name.format(season, number, kind, patch), codes[: 4 if kind == "lc" else 1], **UTM)
    for root in (data, data.parent):
        rows = load_image_masks(root, "all", band_names=L1C_BANDS)
        assert len(rows) == 6
        assert rows.features["segmentation_map"].names == ["40", "41"]
        for row in rows:
            assert row["pixels"].shape == (13, 16, 16)
            assert set(row["segmentation_map"].ravel()) == {int(row["id"][-2:]) - 30}
    splits = [load_image_masks(data, name, band_names=L1C_BANDS) for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 6
    sites = [set(split["site"]) for split in splits]  # patches of a scene overlap
    assert sorted(map(sorted, sites)) == [["ROIs1158_spring_1"], ["ROIs1158_spring_44"], ["ROIs1868_summer_1"]]


def test_folders_of_splits_count_and_share_their_classes(tmp_path):
    write_images(tmp_path / "train" / "b", range(10))
    write_images(tmp_path / "train" / "c", range(10))
    write_images(tmp_path / "test" / "a", ["x"])
    test = load_image_folder(tmp_path, "test", band_names=RGB)
    assert test.features["label"].names == ["a", "b", "c"]
    assert test["label"][:] == [0]
    train, validation = (load_image_folder(tmp_path, name, band_names=RGB) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (18, 2)
    assert len(load_image_folder(tmp_path, "all", band_names=RGB)) == 21
    write_images(tmp_path / "val" / "a", ["y"])
    assert load_image_folder(tmp_path, "validation", band_names=RGB)["id"][:] == ["a/y"]
    assert len(load_image_folder(tmp_path, "train", band_names=RGB)) == 20
    with pytest.raises(ValueError, match=r"train/b/0\.tif: unknown label 'b'; expected one of a, c"):
        load_image_folder(tmp_path, band_names=RGB, class_names=["a", "c"])
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; expected the parent of one folder per class"):
        load_image_folder(tmp_path / "nowhere")


def test_band_names_come_from_the_files_or_the_caller(tmp_path):
    write_images(tmp_path / "water", ["unnamed"])
    with pytest.raises(ValueError, match=r"unnamed\.tif: expected bands with names, found none. Pass `band_names`"):
        load_image_folder(tmp_path, "all")
    write_image(tmp_path / "land" / "a.tif", numbered_bands(3, 16), **UTM)
    for name, bands in (("land/a", ["B2", "B3", "B4"]), ("water/unnamed", ["B4", "B3", "B2"])):
        with rasterio.open(tmp_path / f"{name}.tif", "r+") as file:
            file.descriptions = bands
    first, second = load_image_folder(tmp_path, "all")
    assert first["bands"] == second["bands"] == ["B2", "B3", "B4"]
    np.testing.assert_array_equal(second["pixels"], first["pixels"][::-1])


def test_images_and_masks_pair_by_name_from_any_ancestor(tmp_path):
    write_images(tmp_path / "data" / "images", ["a", "b"])
    write_maps(tmp_path / "data" / "masks", ["a"], value=20)
    write_maps(tmp_path / "data" / "masks", ["b"], value=99)
    dataset = load_image_masks(tmp_path, "all", classes={10: "water", 20: "land"}, ignore=[99], band_names=RGB)
    assert dataset["id"][:] == ["a", "b"]
    assert (dataset[0]["segmentation_map"] == 1).all()
    assert (dataset[1]["segmentation_map"] == 255).all()
    assert dataset.features["segmentation_map"].names == ["water", "land"]
    strict = load_image_masks(tmp_path, "all", classes={10: "water", 20: "land"}, band_names=RGB)
    with pytest.raises(ValueError, match=r"b\.png: unknown class codes \[99\]; expected 10, 20, 255"):
        strict[1]
    with pytest.raises(ValueError, match=r"found \[20\] in both"):
        load_image_masks(tmp_path, classes={20: "land"}, ignore=[20], band_names=RGB)


def test_whole_scenes_are_held_out_before_they_are_cut(tmp_path):
    names = [f"scene{number}" for number in range(10)]
    write_images(tmp_path / "images", names, size=32)
    write_maps(tmp_path / "masks", names, size=32)
    splits = [
        set(load_image_masks(tmp_path, split, classes=["no", "yes"], band_names=RGB, size=16)["scene"])
        for split in ("train", "validation", "test")
    ]
    assert [len(scenes) for scenes in splits] == [8, 1, 1]
    assert len(set.union(*splits)) == 10


def test_a_scene_smaller_than_a_crop_is_padded(tmp_path):
    write_images(tmp_path / "images", ["a"], size=16)
    write_maps(tmp_path / "masks", ["a"], size=16)
    (row,) = load_image_masks(tmp_path, "all", classes=["no", "yes"], band_names=RGB, size=24)
    assert row["pixels"].shape == (3, 24, 24)
    np.testing.assert_array_equal((row["pixels"] == 0).all(0), row["segmentation_map"] == 255)
    assert (row["segmentation_map"] == 1).sum() == 256


def test_files_without_counterpart_are_named(tmp_path):
    write_images(tmp_path / "images", ["a", "b"])
    write_maps(tmp_path / "masks", ["a", "c"])
    with pytest.raises(FileNotFoundError, match=r"images/b\.tif: expected a file of this name in .*masks too"):
        load_image_masks(tmp_path, classes=["no", "yes"], band_names=RGB)
    with pytest.raises(FileNotFoundError, match="labels: no such folder, and no file that matches"):
        load_image_masks(tmp_path, classes=["no", "yes"], masks="labels", band_names=RGB)
    with pytest.raises(FileNotFoundError, match="expected pictures or train/pictures"):
        load_image_masks(tmp_path, classes=["no", "yes"], images="pictures", band_names=RGB)
    with pytest.raises(ValueError, match="train, validation, test or all, got 'trian'"):
        load_image_masks(tmp_path, "trian", classes=["no", "yes"], band_names=RGB)


def test_change_pairs_may_come_as_folders_of_splits(tmp_path):
    for folder in ("before", "after"):
        write_images(tmp_path / "train" / folder, ["a"])
    write_maps(tmp_path / "train" / "masks", ["a"], value=255)
    codes = {"classes": {0: "no change", 255: "change"}, "ignore": ()}
    (row,) = load_change_pairs(tmp_path, "train", band_names=RGB, **codes)
    assert (row["segmentation_map"] == 1).all()
    np.testing.assert_array_equal(row["pixels_after"], numbered_bands(3, 16))
    with pytest.raises(FileNotFoundError, match="expected a folder test beside train"):
        load_change_pairs(tmp_path, "test", band_names=RGB, **codes)


def test_the_table_gives_each_date_of_a_pair_an_offset_of_its_own(tmp_path):
    for folder in ("before", "after"):
        write_images(tmp_path / folder, ["a"])
    write_maps(tmp_path / "masks", ["a"])
    (tmp_path / "table.csv").write_text("path,offset\nafter/a.tif,-1000\n")
    (row,) = load_change_pairs(tmp_path, "all", band_names=RGB)
    np.testing.assert_array_equal(row["pixels"], numbered_bands(3, 16))
    np.testing.assert_array_equal(row["pixels_after"], numbered_bands(3, 16).astype(np.float32) - 1000)


def test_a_genuine_pair_is_cut_into_crops(shared_data):
    dataset = load_change_pairs(
        shared_data / "change_australia",
        before="pre_*.tif",
        after="post_*.tif",
        masks="mask_*.tif",
        size=128,
        stride=64,
    )
    assert len(dataset) == 8 * 5
    row = dataset[0]
    assert row["pixels"].shape == row["pixels_after"].shape == (10, 128, 128)
    assert row["bands"] == ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B11"]
    assert set(np.unique(row["segmentation_map"])) <= {0, 1, 255}


@pytest.mark.filterwarnings("ignore:A file of 13 bands without names")
def test_genuine_chips_and_maps_pair_by_name(shared_data):
    names = ["water", "trees", "flooded", "crops", "built", "bare", "snow", "cloud", "rangeland"]
    dataset = load_image_masks(
        shared_data / "chips_worldwide",
        "all",
        classes=dict(enumerate(names, start=1)),
        ignore=[0],
        images="L1C",
        masks="LULC",
    )
    assert len(dataset) == 5
    for row in dataset:
        assert row["pixels"].shape == (13, 224, 224)
        assert row["segmentation_map"].shape == (224, 224)
        assert set(np.unique(row["segmentation_map"])) <= {*range(9), 255}
