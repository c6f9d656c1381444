import numpy as np
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data import load_eurosat
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS, L2A_BANDS

from ..files import UTM, numbered_bands, write_image


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """The archive's folders with a few images, one of the 597 extra ones, and the published lists."""
    root = tmp_path_factory.mktemp("eurosat")
    folder = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    images = ["AnnualCrop/AnnualCrop_1", "AnnualCrop/AnnualCrop_10", "River/River_2", "SeaLake/SeaLake_3000"]
    for image in [*images, "SeaLake/Bombay_000000"]:
        write_image(folder / f"{image}.tif", numbered_bands(13, 64), **UTM)
    (root / "eurosat-train.txt").write_text("River_2.jpg\nAnnualCrop_1.jpg\n")
    (root / "eurosat-spatial-train.txt").write_text("SeaLake_3000.jpg\nRiver_2.jpg\n")
    (root / "eurosat-spatial-val.txt").write_text("AnnualCrop_10.jpg\n")
    return root


def test_splits_follow_the_published_lists(eurosat):
    assert load_eurosat(eurosat)["id"][:] == ["SeaLake_3000", "River_2"]
    assert load_eurosat(eurosat, "validation")["id"][:] == ["AnnualCrop_10"]
    assert load_eurosat(eurosat, "train", partition="random")["label"][:] == [8, 0]
    with pytest.raises(FileNotFoundError, match=r"expected eurosat-spatial-test\.txt"):
        load_eurosat(eurosat, "test")
    with pytest.raises(ValueError, match="'spatial' or 'random', got 'spacial'"):
        load_eurosat(eurosat, partition="spacial")


def test_extra_files_are_left_out(eurosat):
    dataset = load_eurosat(eurosat, "all")
    assert dataset["id"][:] == ["AnnualCrop_1", "AnnualCrop_10", "River_2", "SeaLake_3000"]
    with pytest.raises(ValueError, match="Bombay_000000: unknown label 'Bombay'; expected one of AnnualCrop"):
        load_eurosat(eurosat, ["Bombay_000000"])


def test_lists_of_the_authors_are_read_from_any_ancestor(eurosat, tmp_path):
    (tmp_path / "train.txt").write_text("tif/River/River_2.tif 8\ntif/AnnualCrop/AnnualCrop_1.tif 0\n")
    for root in (eurosat, eurosat / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"):
        assert load_eurosat(root, tmp_path / "train.txt")["id"][:] == ["River_2", "AnnualCrop_1"]


def test_rows_hold_all_bands_with_b8a_last_and_the_class_name(eurosat):
    dataset = load_eurosat(eurosat)
    row = dataset[1]
    assert row["bands"] == list(EUROSAT_FILE_BANDS)
    assert row["bands"][-1] == "B8A"
    assert row["pixels"].dtype == np.uint16
    np.testing.assert_array_equal(row["pixels"], numbered_bands(13, 64))
    assert dataset.features["label"].int2str(row["label"]) == "River"
    assert dataset.features["label"].num_classes == 10


@pytest.mark.filterwarnings("ignore:.*median of B10")
def test_the_processor_takes_bands_from_a_row_by_name(eurosat):
    row = load_eurosat(eurosat)[0]
    processor = SpectralGPTImageProcessor(normalization="zscore", mean=[0.0] * 12, std=[1.0] * 12)
    values = processor(row["pixels"], band_names=row["bands"])["pixel_values"]
    stored = 1000 * (1 + np.array([EUROSAT_FILE_BANDS.index(band) for band in L2A_BANDS]))
    np.testing.assert_array_equal(values[0, :, 0, 0].numpy(), stored)


def test_a_listed_image_that_is_missing_is_named(eurosat):
    with pytest.raises(FileNotFoundError, match=r"River_7\.tif: no such image, and 1 more"):
        load_eurosat(eurosat, ["River_7", "River_2", "River_8"])


def test_a_file_with_other_bands_is_named(tmp_path):
    write_image(tmp_path / "River/River_1.tif", numbered_bands(3, 64), **UTM)
    with pytest.raises(ValueError, match=r"River_1\.tif: got 13 band names for 3 bands"):
        load_eurosat(tmp_path, "all")[0]


def test_a_folder_without_the_classes_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected AnnualCrop/AnnualCrop_\*\.tif or Forest"):
        load_eurosat(tmp_path)
