import numpy as np
import pytest

from spectralgpt_hf.data import load_segmunich
from spectralgpt_hf.data.readers.segmunich import source_patch
from spectralgpt_hf.modeling.bands import SEGMUNICH_BANDS

from ..files import UTM, numbered_bands, write_image


CODES = [0, 5, 11, 12, 13, 14, 21, 22, 23, 31, 32, 33, 41]
NUMBERS = [0, 5, 11, 12, 9, 10, 1, 2, 3, 4, 6, 7, 8]  # of the codes, as MODEL.md lists them
PAPER = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B11", "B12"]


def write_chip(folder, name, label_suffix=".tif"):
    write_image(folder / "img" / f"{name}.tif", numbered_bands(10, 128), interleave="pixel", **UTM)
    codes = np.resize(np.array(CODES, np.uint8), (128, 128))
    write_image(folder / "label" / f"{name}{label_suffix}", codes, **(UTM if label_suffix == ".tif" else {}))


@pytest.fixture(scope="module")
def segmunich(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmunich") / "TUM_128"
    for number in range(20):
        write_chip(root / "train", str(number))
    write_chip(root / "test", "100")
    (root / "dataset").mkdir()
    (root / "dataset" / "train.txt").write_text("\n".join(map(str, range(19))))  # 19 is a stray file
    (root / "dataset" / "test.txt").write_text("100\n")
    return root


@pytest.mark.filterwarnings("ignore:The band order of SegMunich")
def test_raw_codes_become_the_13_classes(segmunich):
    dataset = load_segmunich(segmunich.parent, "test")
    row = dataset[0]
    assert row["id"] == "100"
    assert row["segmentation_map"].ravel()[:13].tolist() == NUMBERS
    names = dataset.features["segmentation_map"].names
    assert [names[number] for number in (0, 1, 4, 8, 12)] == [
        "Background",
        "Arable land",
        "Forests",
        "Wetlands",
        "Buildings",
    ]
    np.testing.assert_array_equal(row["pixels"], numbered_bands(10, 128))


def test_the_band_order_is_an_argument_and_its_default_is_announced(segmunich):
    with pytest.warns(UserWarning, match="B2, B3, B4, B5, B6, B7, B8, B8A, B11, B12, as the authors answered"):
        assert load_segmunich(segmunich)[0]["bands"] == list(SEGMUNICH_BANDS)
    assert load_segmunich(segmunich, band_names=PAPER)[0]["bands"] == PAPER


def test_validation_is_a_fixed_tenth_of_the_listed_training_chips(segmunich):
    train, validation = (
        load_segmunich(segmunich, split, band_names=PAPER)["id"][:] for split in ("train", "validation")
    )
    assert len(validation) == 2
    assert sorted(map(int, train + validation)) == list(range(19))
    assert load_segmunich(segmunich, "validation", band_names=PAPER, seed=1)["id"][:] != validation
    assert len(load_segmunich(segmunich, "train", band_names=PAPER, validation_share=0)) == 19


@pytest.mark.parametrize("name", ["7", "7_rot90", "7_rotate_180", "7-hflip", "7_flip_ud", "7_rot90_flip", "7rot270"])
def test_transformed_copies_belong_to_their_source_patch(name):
    assert source_patch(name) == "7"
    assert source_patch("cloud_7") == "cloud_7"


@pytest.mark.filterwarnings("ignore:The band order of SegMunich")
def test_validation_takes_a_patch_with_all_its_transformed_copies(tmp_path):
    for number in range(10):
        for transform in ("", "_rot90", "_flip"):
            write_chip(tmp_path / "train", f"{number}{transform}")
    train, validation = (load_segmunich(tmp_path, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (27, 3)
    assert len(set(validation["site"])) == 1
    assert not set(train["site"]) & set(validation["site"])


def test_mirrors_with_val_png_labels_and_a_table_are_read(tmp_path):
    write_chip(tmp_path / "train", "a", ".png")
    write_chip(tmp_path / "val", "b", ".png")
    write_chip(tmp_path / "val", "c", ".png")
    row = load_segmunich(tmp_path, "train", band_names=PAPER)[0]
    assert row["segmentation_map"].ravel()[:13].tolist() == NUMBERS
    assert load_segmunich(tmp_path, "test", band_names=PAPER)["id"][:] == ["b", "c"]
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "metadata.csv").write_text("id,source\na,train\nc,val\n")
    assert load_segmunich(tmp_path, "test", band_names=PAPER)["id"][:] == ["c"]
    (tmp_path / "dataset" / "metadata.csv").write_text("name\na\n")
    with pytest.raises(ValueError, match=r"metadata\.csv: expected columns id and source, found name"):
        load_segmunich(tmp_path, "test", band_names=PAPER)


def test_missing_and_damaged_chips_are_named(tmp_path):
    write_chip(tmp_path / "train", "a")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train.txt").write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"img/b\.tif: no such file, but the sample is listed"):
        load_segmunich(tmp_path, band_names=PAPER)
    (tmp_path / "dataset" / "train.txt").write_text("a\n")
    write_image(tmp_path / "train" / "label" / "a.tif", np.full((128, 128), 51, np.uint8), **UTM)
    with pytest.raises(ValueError, match=r"label/a\.tif: unknown class codes \[51\]; expected 0, 21"):
        load_segmunich(tmp_path, band_names=PAPER)[0]
    image = tmp_path / "train" / "img" / "a.tif"
    image.write_bytes(image.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"img/a\.tif"):
        load_segmunich(tmp_path, band_names=PAPER)[0]
    (tmp_path / "train" / "label" / "a.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"label/a\.tif"):
        load_segmunich(tmp_path, band_names=PAPER)
    with pytest.raises(FileNotFoundError, match="expected test/img or val/img"):
        load_segmunich(tmp_path, "test", band_names=PAPER)
    with pytest.raises(ValueError, match="train, validation or test, got 'all'"):
        load_segmunich(tmp_path, "all", band_names=PAPER)
