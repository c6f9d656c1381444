import csv

import numpy as np
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_image_masks
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.training.samples import Samples
from spectralgpt_hf.training.survey import describe_unstated_offsets, find_unstated_offsets
from tests.data.files import write_image


def pixels(cirrus: int) -> np.ndarray:
    values = np.full((13, 16, 16), 1500, np.uint16)
    values[L1C_BANDS.index("B10")] = cirrus
    return values


@pytest.fixture
def folder(tmp_path):
    for name, cirrus in (("clear", 12), ("raised", 1012), ("stated", 1012)):
        write_image(tmp_path / "data" / "images" / f"{name}.tif", pixels(cirrus))
        write_image(tmp_path / "data" / "masks" / f"{name}.png", np.eye(16, dtype=np.uint8))
    (tmp_path / "data" / "table.csv").write_text("path,site,offset\nimages/stated.tif,b,-1000\nimages/clear.tif,a,\n")
    return tmp_path / "data"


def read(folder, bands=L1C_BANDS) -> dict[str, Samples]:
    rows = load_image_masks(folder, "all", band_names=bands, size=16)
    return {"train": Samples(rows, SpectralGPTImageProcessor(normalization="percentile"))}


def test_files_with_a_bright_cirrus_band_and_no_stated_offset_are_found(folder):
    assert find_unstated_offsets(read(folder)) == {"train": [folder / "images" / "raised.tif"]}


def test_the_proposed_table_keeps_what_the_table_says_and_states_the_offsets(folder, tmp_path):
    samples = read(folder)
    message = describe_unstated_offsets(find_unstated_offsets(samples), folder, tmp_path / "out")
    assert message.startswith("1 files look as if")
    assert "raised.tif" in message
    assert "`offset=0`" in message
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["images/raised.tif"]["offset"] == rows["images/stated.tif"]["offset"] == "-1000"
    assert (rows["images/clear.tif"]["offset"], rows["images/clear.tif"]["site"]) == ("", "a")
    (tmp_path / "out" / "table.csv").replace(folder / "table.csv")
    assert find_unstated_offsets(read(folder)) == {}


def test_files_without_a_cirrus_band_cannot_tell(tmp_path):
    write_image(tmp_path / "images" / "a.tif", np.full((12, 16, 16), 2500, np.uint16))
    write_image(tmp_path / "masks" / "a.png", np.eye(16, dtype=np.uint8))
    assert find_unstated_offsets(read(tmp_path, L2A_BANDS)) == {}
