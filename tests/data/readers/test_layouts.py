import numpy as np
import pytest

from spectralgpt_hf.data import load_change_pairs, load_image_masks
from spectralgpt_hf.data.readers.layouts import group_dates, read_table

from ..files import UTM, numbered_bands, write_image


RGB = ["B4", "B3", "B2"]


def write_pairs(root, image, mask, names="abc", value=1):
    for name in names:
        write_image(root / image.format(name), numbered_bands(3, 16), **UTM)
        write_image(root / mask.format(name), np.full((16, 16), value, np.uint8))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.tif", "masks/{}.png"),
        ("deep/below/Images/{}.tif", "deep/below/Labels/{}.tif"),
        ("L2A/{}.tif", "LULC/{}.tif"),
        ("{}.tif", "{}_mask.tif"),
        ("image_{}.tif", "label_{}.png"),
    ],
)
def test_images_and_maps_are_found_by_their_folders_or_names(image, mask, tmp_path):
    write_pairs(tmp_path, image, mask)
    rows = load_image_masks(tmp_path, "all", band_names=RGB)
    assert rows["id"][:] == ["a", "b", "c"]
    assert rows.features["segmentation_map"].names == ["1"]
    assert (rows[0]["segmentation_map"] == 0).all()


def test_splits_are_found_above_and_below_the_folders_of_images_and_maps(tmp_path):
    write_pairs(tmp_path / "above", "train/images/{}.tif", "train/masks/{}.png", "abcd")
    write_pairs(tmp_path / "above", "test/images/{}.tif", "test/masks/{}.png", "ef")
    write_pairs(tmp_path / "below", "images/train/{}.tif", "masks/train/{}.png", "abcd")
    write_pairs(tmp_path / "below", "images/test/{}.tif", "masks/test/{}.png", "ef")
    assert load_image_masks(tmp_path / "above", "test", band_names=RGB)["id"][:] == ["e", "f"]
    assert load_image_masks(tmp_path / "below", "test", band_names=RGB)["id"][:] == ["test/e", "test/f"]


def test_three_files_are_enough_for_three_splits(tmp_path):
    write_pairs(tmp_path, "images/{}.tif", "masks/{}.png")
    splits = [load_image_masks(tmp_path, split, band_names=RGB)["id"][:] for split in ("train", "validation", "test")]
    assert [len(ids) for ids in splits] == [1, 1, 1]
    assert set().union(*splits) == {"a", "b", "c"}


def test_dates_and_their_map_may_lie_in_one_folder_with_words_for_each(tmp_path):
    for name in ("pre_2018", "post_2019"):
        write_image(tmp_path / f"{name}.tif", numbered_bands(3, 16), **UTM)
    write_image(tmp_path / "mask_thresholded.tif", np.zeros((16, 16), np.uint8))
    (row,) = load_change_pairs(tmp_path, "all", band_names=RGB)
    assert row["pixels"].shape == row["pixels_after"].shape == (3, 16, 16)


def test_classes_are_the_codes_of_all_maps_but_those_that_mean_no_class(tmp_path):
    write_pairs(tmp_path, "images/{}.tif", "masks/{}.tif", "ab", value=7)
    write_pairs(tmp_path, "images/{}.tif", "masks/{}.tif", "c", value=3)
    labels = np.full((16, 16), 9, np.uint8)
    labels[0, 0] = 255
    write_image(tmp_path / "masks" / "d.tif", labels, nodata=9)
    write_image(tmp_path / "images" / "d.tif", numbered_bands(3, 16), **UTM)
    rows = load_image_masks(tmp_path, "train", band_names=RGB)
    assert rows.features["segmentation_map"].names == ["3", "7"]
    every = load_image_masks(tmp_path, "all", band_names=RGB)
    assert (every[3]["segmentation_map"] == 255).all()


def test_a_table_states_split_site_offset_and_nodata_of_each_image(tmp_path):
    write_pairs(tmp_path, "images/{}.tif", "masks/{}.png", "abcd")
    lines = [
        "path,split,site,offset,nodata",
        "images/a.tif,train,x,-1000,",
        "images/b.tif,val,,,",
        "images/c.tif,test,,,",
    ]
    (tmp_path / "table.csv").write_text("\n".join([*lines, "images/d.tif,train,,,5"]))
    train = load_image_masks(tmp_path, "train", band_names=RGB)
    assert (train["id"][:], train["site"][:]) == (["a", "d"], ["x", "d"])
    np.testing.assert_array_equal(train[0]["pixels"], numbered_bands(3, 16) - 1000.0)
    assert load_image_masks(tmp_path, "validation", band_names=RGB)["id"][:] == ["b"]
    (tmp_path / "table.csv").write_text("path,split\na,x\n")
    with pytest.raises(ValueError, match=r"table\.csv, line 2: expected a split of train, validation, test, found 'x'"):
        read_table(tmp_path)
    (tmp_path / "table.csv").write_text("file\na\n")
    with pytest.raises(ValueError, match=r"table\.csv: expected the columns path and some of split"):
        read_table(tmp_path)


def test_files_of_one_site_are_held_out_together(tmp_path):
    write_pairs(tmp_path, "images/{}.tif", "masks/{}.png", "abcdef")
    rows = [f"images/{name}.tif,{site}" for name, site in zip("abcdef", "xxyyzz")]
    (tmp_path / "table.csv").write_text("\n".join(["path,site", *rows]))
    sites = [
        set(load_image_masks(tmp_path, split, band_names=RGB)["site"]) for split in ("train", "validation", "test")
    ]
    assert [len(found) for found in sites] == [1, 1, 1]
    assert len(set.union(*sites)) == 3


def test_what_may_mean_several_folders_is_refused(tmp_path):
    for folder in ("L1C", "L2A"):
        write_pairs(tmp_path, folder + "/{}.tif", "masks/{}.png")
    with pytest.raises(ValueError, match="one folder of images, found L1C, L2A: pass `images`"):
        load_image_masks(tmp_path, "all", band_names=RGB)
    assert len(load_image_masks(tmp_path, "all", images="L2A", band_names=RGB)) == 3


def test_blocks_of_one_large_image_are_held_out(tmp_path):
    write_image(tmp_path / "images" / "a.tif", numbered_bands(3, 96), **UTM)
    write_image(tmp_path / "masks" / "a.png", np.ones((96, 96), np.uint8))
    options = {"band_names": RGB, "size": 8, "stride": 4, "holdout": "spatial"}
    covered = []
    for split in ("train", "validation", "test"):
        rows = load_image_masks(tmp_path, split, **options)
        covered.append(np.zeros((96, 96), bool))
        for left, top, width, height in rows["window"]:
            covered[-1][top : top + height, left : left + width] = True
    assert not (np.sum(covered, 0) > 1).any()
    assert np.sum(covered, 0).all()  # crops on the grid of the blocks cover them
    assert 0.05 < covered[1].mean() < 0.2
    with pytest.raises(ValueError, match="at least 3 blocks of 96 px"):
        load_image_masks(tmp_path, "train", **options | {"size": 96})
    with pytest.raises(ValueError, match="`holdout` must be 'auto', 'file' or, for crops"):
        load_image_masks(tmp_path, "train", band_names=RGB, holdout="spatial")


def test_with_few_files_validation_takes_blocks_of_the_training_files_and_the_test_whole_ones(tmp_path):
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.tif", numbered_bands(3, 32), **UTM)
        write_image(tmp_path / "masks" / f"{name}.png", np.ones((32, 32), np.uint8))
    options = {"band_names": RGB, "size": 8, "holdout": "auto"}
    rows = {split: load_image_masks(tmp_path, split, **options) for split in ("train", "validation", "test")}
    scenes = {split: set(found["scene"]) for split, found in rows.items()}
    assert len(scenes["test"]) == 1
    assert scenes["train"] == set("abcd") - scenes["test"] >= scenes["validation"]
    windows = {split: set(zip(found["scene"], map(tuple, found["window"]))) for split, found in rows.items()}
    assert not windows["train"] & windows["validation"]
    assert len(windows["train"]) + len(windows["validation"]) == 3 * 16
    assert len(rows["test"]) == 16


def test_with_folders_of_splits_few_files_keep_their_test_and_many_are_held_out_whole(tmp_path):
    for split, names in (("train", "abc"), ("test", "d")):
        for name in names:
            write_image(tmp_path / split / "images" / f"{name}.tif", numbered_bands(3, 32), **UTM)
            write_image(tmp_path / split / "masks" / f"{name}.png", np.ones((32, 32), np.uint8))
    options = {"band_names": RGB, "size": 8, "holdout": "auto"}
    rows = {split: load_image_masks(tmp_path, split, **options) for split in ("train", "validation", "test")}
    assert set(rows["train"]["scene"]) == set("abc") >= set(rows["validation"]["scene"])
    assert set(rows["test"]["scene"]) == {"d"}
    write_pairs(tmp_path / "many", "images/{}.tif", "masks/{}.png", "abcdefghij")
    found = {split: load_image_masks(tmp_path / "many", split, **options)["scene"] for split in rows}
    assert not set(found["train"]) & set(found["validation"])


def test_one_or_two_images_are_divided_into_blocks_for_all_splits(tmp_path):
    write_image(tmp_path / "images" / "a.tif", numbered_bands(3, 64), **UTM)
    write_image(tmp_path / "masks" / "a.png", np.ones((64, 64), np.uint8))
    options = {"band_names": RGB, "size": 8, "holdout": "auto"}
    rows = [load_image_masks(tmp_path, split, **options) for split in ("train", "validation", "test")]
    assert sum(map(len, rows)) == 64
    assert all(map(len, rows))


def test_files_that_differ_in_a_date_are_one_series_in_the_order_of_dates(tmp_path):
    names = ["a_20200301", "a_20200103", "b/2020-07-15", "b/2019-07-15", "S2_20200103T101112_c"]
    files = {name: tmp_path / f"{name}.tif" for name in names}
    grouped = {name: [file.name for file in dates] for name, dates in group_dates(files).items()}
    assert grouped == {
        "a": ["a_20200103.tif", "a_20200301.tif"],
        "b": ["2019-07-15.tif", "2020-07-15.tif"],
        "S2_c": ["S2_20200103T101112_c.tif"],
    }
    with pytest.raises(ValueError, match="expected the date of a series in its name"):
        group_dates({"x": tmp_path / "x.tif"})
    with pytest.raises(ValueError, match="the same date"):
        group_dates({"a_20200103": tmp_path / "a_20200103.tif", "a_2020-01-03": tmp_path / "a_2020-01-03.tif"})
