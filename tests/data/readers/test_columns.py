import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from torch.utils.data import DataLoader

from spectralgpt_hf.data import MultispectralImage, SegmentationMap

from ..files import UTM, numbered_bands, write_image


BANDS = ["B2", "B3", "B4"]


def image_dataset(references):
    return Dataset.from_dict({"pixels": references}, features=Features({"pixels": MultispectralImage(BANDS, BANDS)}))


def map_dataset(references, **kwargs):
    feature = SegmentationMap(["water", "land"], **kwargs)
    return Dataset.from_dict({"segmentation_map": references}, features=Features({"segmentation_map": feature}))


def shapes(rows):
    return [row["pixels"].shape for row in rows]


def test_no_file_is_opened_before_its_row_is_read(tmp_path):
    dataset = image_dataset([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")])
    shuffled = pickle.loads(pickle.dumps(dataset)).shuffle(seed=1).select([0])
    reference = shuffled.cast_column("pixels", MultispectralImage(BANDS, BANDS, decode=False))[0]["pixels"]
    assert reference["window"] is None
    with pytest.raises(FileNotFoundError, match=rf"{reference['path']}"):
        shuffled[0]
    write_image(tmp_path / "a.tif", numbered_bands(3, 8), **UTM)
    write_image(tmp_path / "b.tif", numbered_bands(3, 8), **UTM)
    np.testing.assert_array_equal(shuffled[0]["pixels"], numbered_bands(3, 8))


def test_rows_become_tensors_in_the_torch_format(tmp_path):
    dataset = image_dataset([str(write_image(tmp_path / "a.tif", numbered_bands(3, 8), **UTM))])
    pixels = dataset.with_format("torch")[0]["pixels"]
    assert torch.equal(pixels, torch.from_numpy(numbered_bands(3, 8).astype(np.int64)))


@pytest.mark.slow  # imports everything again
def test_workers_that_start_afresh_read_rows(tmp_path):
    path = str(write_image(tmp_path / "a.tif", numbered_bands(3, 8), **UTM))
    loader = DataLoader(image_dataset([path]), num_workers=1, multiprocessing_context="spawn", collate_fn=shapes)
    assert list(loader) == [[(3, 8, 8)]]


def test_a_saved_dataset_loads_with_its_types(tmp_path):
    path = str(write_image(tmp_path / "map.tif", np.ones((4, 4), np.uint8)))
    map_dataset([path]).save_to_disk(tmp_path / "saved")
    loaded = Dataset.load_from_disk(tmp_path / "saved")
    assert loaded.features["segmentation_map"] == SegmentationMap(["water", "land"])
    assert (loaded[0]["segmentation_map"] == 1).all()


def test_pixels_without_data_are_zero_in_all_bands(tmp_path):
    pixels = numbered_bands(3, 8, dtype=np.float32)
    pixels[1, 2, 3] = -9999
    pixels[2, 4, 4] = np.nan
    read = image_dataset([str(write_image(tmp_path / "a.tif", pixels, nodata=-9999, **UTM))])[0]["pixels"]
    assert (read[:, 2, 3] == 0).all()
    assert (read[:, 4, 4] == 0).all()
    assert (read != 0).all(0).sum() == 62
    assert read.dtype == np.float32


def test_a_window_may_reach_beyond_what_counts(tmp_path):
    path = str(write_image(tmp_path / "a.tif", numbered_bands(3, 8, 10), **UTM))
    read = image_dataset([{"path": path, "window": [4, 2, 8, 8], "extent": [7, 9]}])[0]["pixels"]
    assert read.shape == (3, 8, 8)
    np.testing.assert_array_equal(read[:, :5, :5], numbered_bands(3, 8, 10)[:, 2:7, 4:9])
    assert not read[:, 5:].any()
    assert not read[:, :, 5:].any()

    path = str(write_image(tmp_path / "map.tif", np.ones((8, 10), np.uint8), **UTM))
    read = map_dataset([{"path": path, "window": [4, 2, 8, 8], "extent": [7, 9]}])[0]["segmentation_map"]
    assert (read[:5, :5] == 1).all()
    assert (read == 255).sum() == 64 - 25


def test_codes_become_class_numbers(tmp_path):
    stored = np.array([[7, 30], [9, 200]], np.uint8)
    path = str(write_image(tmp_path / "map.png", stored))
    codes = {"codes": [30, 7, 9], "labels": [0, 1, 1]}
    read = map_dataset([path], **codes, ignore_unknown=True)[0]["segmentation_map"]
    np.testing.assert_array_equal(read, np.array([[1, 0], [1, 255]], np.uint8))
    with pytest.raises(ValueError, match=r"map\.png: unknown class codes \[200\]; expected 30, 7, 9"):
        map_dataset([path], **codes)[0]


def test_a_grey_map_stored_as_rgb_is_read_and_a_coloured_one_refused(tmp_path):
    grey = np.repeat(np.array([[[0, 1]]], np.uint8), 3, axis=0)
    read = map_dataset([str(write_image(tmp_path / "grey.png", grey))])[0]["segmentation_map"]
    np.testing.assert_array_equal(read, [[0, 1]])
    grey[2] = 1
    with pytest.raises(ValueError, match=r"colour\.png: expected one band of class codes, found 3"):
        map_dataset([str(write_image(tmp_path / "colour.png", grey))])[0]


@pytest.mark.parametrize("kwargs", [{"codes": [1, 2]}, {"codes": [1], "labels": [0, 1]}, {"codes": [1], "labels": [2]}])
def test_a_table_of_codes_must_be_complete(kwargs):
    with pytest.raises(ValueError, match="labels"):
        SegmentationMap(["water", "land"], **kwargs)


def test_a_truncated_image_is_named(tmp_path):
    path = write_image(tmp_path / "a.tif", numbered_bands(3, 64), **UTM)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a\.tif"):
        image_dataset([str(path)])[0]
