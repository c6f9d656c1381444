import shutil

import numpy as np
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data import load_oscd
from spectralgpt_hf.modeling.bands import L1C_BANDS

from ..files import write_image


IMAGES, TRAIN_LABELS, TEST_LABELS = (
    f"Onera Satellite Change Detection dataset - {part}" for part in ("Images", "Train Labels", "Test Labels")
)


def pixels_of(band, height, width, date):
    return (1000 * (1 + L1C_BANDS.index(band)) + 100 * date + np.add.outer(np.arange(height), np.arange(width))).astype(
        np.uint16
    )


def write_city(root, city, labels, before=(300, 200), after=(300, 200), rgb=False, merged=False):
    """One file per band in one grid without georeference, and the maps of change as PNG and TIFF."""
    folder = root / IMAGES / city
    for date, shape in ((1, before), (2, after)):
        for band in L1C_BANDS:
            name = band if band == "B8A" else f"B{int(band[1:]):02}"
            write_image(folder / f"imgs_{date}_rect" / f"{name}.tif", pixels_of(band, *shape, date))
            # Native resolutions under long names, which must not be taken.
            long_name = f"S2A_OPER_MSI_L1C_TL_EPA__20160418T000000_A000000_T31TFJ_{name}.tif"
            write_image(folder / f"imgs_{date}" / long_name, np.ones((4, 4), np.uint16))
    (folder / "dates.txt").write_text("date_1: 20160418\ndate_2: 20170823\n")
    change = np.zeros(before, np.uint8)
    change[10:20, 30:50] = 1
    target = (root / IMAGES if merged else root / labels) / city / "cm"
    write_image(target / "cm.png", np.repeat(255 * change[None], 3, axis=0) if rgb else 255 * change)
    write_image(target / f"{city}-cm.tif", change + 1)


@pytest.fixture(scope="module")
def oscd(tmp_path_factory):
    root = tmp_path_factory.mktemp("oscd")
    write_city(root, "nantes", TRAIN_LABELS, rgb=True)
    write_city(root, "paris", TRAIN_LABELS, after=(290, 195))
    write_city(root, "rio", TEST_LABELS)
    (root / IMAGES / "train.txt").write_text("nantes,paris")
    (root / IMAGES / "test.txt").write_text("rio\n")
    return root


def test_validation_cities_are_held_out_of_the_training_list(oscd):
    assert set(load_oscd(oscd)["scene"]) == {"nantes"}
    assert set(load_oscd(oscd, "validation")["scene"]) == {"paris"}
    assert set(load_oscd(oscd, "test")["scene"]) == {"rio"}
    assert set(load_oscd(oscd, ["rio", "paris"])["scene"]) == {"rio", "paris"}
    assert set(load_oscd(oscd, oscd / IMAGES / "train.txt")["scene"]) == {"nantes", "paris"}


def test_without_lists_the_published_cities_are_expected(oscd, tmp_path):
    (tmp_path / IMAGES).mkdir()
    shutil.copytree(oscd / IMAGES / "rio", tmp_path / IMAGES / "rio")
    shutil.copytree(oscd / TEST_LABELS, tmp_path / TEST_LABELS)
    with pytest.raises(FileNotFoundError, match=r"expected brasilia/cm/cm\.png or brasilia/cm/brasilia-cm\.tif"):
        load_oscd(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"expected aguasclaras/cm/cm\.png"):
        load_oscd(tmp_path, "train")


def test_crops_overlap_by_half_and_cover_the_city(oscd):
    dataset = load_oscd(oscd)
    assert dataset["window"][:] == [[x, y, 128, 128] for y in (0, 64, 128, 172) for x in (0, 64, 72)]
    assert dataset["id"][:2] == ["nantes_0_0", "nantes_0_64"]
    row = dataset[4]
    assert row["bands"] == list(L1C_BANDS)
    for i, band in enumerate(L1C_BANDS):
        np.testing.assert_array_equal(row["pixels"][i], pixels_of(band, 300, 200, 1)[64:192, 64:192])
        np.testing.assert_array_equal(row["pixels_after"][i], pixels_of(band, 300, 200, 2)[64:192, 64:192])
    assert row["pixels"].dtype == np.uint16
    assert dataset[0]["segmentation_map"].sum() == 200
    assert dataset.features["segmentation_map"].names == ["no change", "change"]


def test_crops_stitch_to_the_whole_city(oscd):
    (whole,) = load_oscd(oscd, size=None)
    stitched = np.zeros((300, 200), np.uint8)
    for row in load_oscd(oscd, stride=128):
        left, top, width, height = row["window"]
        stitched[top : top + height, left : left + width] = row["segmentation_map"]
    np.testing.assert_array_equal(stitched, whole["segmentation_map"])
    assert whole["segmentation_map"].sum() == 200
    assert whole["pixels_after"].shape == (13, 300, 200)


def test_a_smaller_second_date_is_padded_and_masked(oscd):
    (row,) = load_oscd(oscd, "validation", size=None)
    assert row["pixels"].shape == row["pixels_after"].shape == (13, 300, 200)
    for pixels in (row["pixels"], row["pixels_after"]):
        np.testing.assert_array_equal((pixels == 0).all(0), row["segmentation_map"] == 255)
    assert (row["segmentation_map"] != 255).sum() == 290 * 195
    for crop in load_oscd(oscd, "validation"):
        left, top, _, _ = crop["window"]
        np.testing.assert_array_equal(
            crop["segmentation_map"], row["segmentation_map"][top : top + 128, left : left + 128]
        )


@pytest.mark.filterwarnings("ignore:.*median of B10")
def test_the_processor_leaves_padded_tokens_out(oscd):
    row = load_oscd(oscd, "validation")[-1]
    processor = SpectralGPTImageProcessor()
    for pixels in (row["pixels"], row["pixels_after"]):
        batch = processor(pixels, band_names=row["bands"], segmentation_maps=row["segmentation_map"])
        # 10 rows and 5 columns are missing: the last tokens lack more than half of their pixels.
        tokens = batch["attention_mask"].view(4, 16, 16)
        assert (tokens[:, :15, :15] == 1).all()
        assert tokens.sum() == 4 * 15 * 15
        np.testing.assert_array_equal(batch["labels"][0].numpy(), row["segmentation_map"])


def test_a_larger_second_date_is_cut(tmp_path):
    write_city(tmp_path, "rio", TEST_LABELS, after=(320, 210))
    (row,) = load_oscd(tmp_path, ["rio"], size=None)
    assert row["pixels_after"].shape == (13, 300, 200)
    assert (row["segmentation_map"] != 255).all()


def test_maps_beside_the_images_and_maps_as_tiff_are_read(oscd, tmp_path):
    write_city(tmp_path, "rio", "", merged=True)
    expected = load_oscd(oscd, "test")[0]["segmentation_map"]
    np.testing.assert_array_equal(load_oscd(tmp_path, ["rio"])[0]["segmentation_map"], expected)
    (tmp_path / IMAGES / "rio/cm/cm.png").unlink()
    np.testing.assert_array_equal(load_oscd(tmp_path, ["rio"])[0]["segmentation_map"], expected)


def test_damaged_cities_are_named(tmp_path):
    write_city(tmp_path, "rio", TEST_LABELS)
    labels = tmp_path / TEST_LABELS / "rio/cm"
    write_image(labels / "cm.png", np.full((300, 200), 7, np.uint8))
    with pytest.raises(ValueError, match=r"cm\.png: unknown class codes \[7\]; expected 0, 255"):
        load_oscd(tmp_path, ["rio"])[0]
    write_image(labels / "cm.png", np.zeros((30, 20), np.uint8))
    with pytest.raises(ValueError, match=r"cm\.png: expected a map of 300 x 200 px .* found 30 x 20 px"):
        load_oscd(tmp_path, ["rio"])
    (labels / "cm.png").unlink()
    (tmp_path / IMAGES / "rio/imgs_2_rect/B8A.tif").unlink()
    with pytest.raises(ValueError, match="imgs_2_rect: no band B8A"):
        load_oscd(tmp_path, ["rio"])[0]
    shutil.rmtree(tmp_path / IMAGES / "rio/imgs_2_rect")
    with pytest.raises(FileNotFoundError, match="rio/imgs_2_rect"):
        load_oscd(tmp_path, ["rio"])
    with pytest.raises(FileNotFoundError, match="expected train, validation, test or all, a file that lists cities"):
        load_oscd(tmp_path, "trian")
