"""Scenes: the statistics are those of the files."""

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.inference.scenes import Scene
from tests.inference.scenes import processor, write_scene


@pytest.mark.parametrize("bands", [None, ["B2", "B3", "B4"]])
def test_statistics_of_an_open_scene_are_those_of_its_file(tmp_path, bands):
    path = write_scene(tmp_path / "scene.tif")
    chosen = processor() if bands is None else processor(bands=bands)
    with Scene([path], chosen) as scene:
        assert scene.statistics == chosen.measure_statistics(path)
        assert scene.reader.bands == tuple(chosen.bands)


def test_an_unstated_offset_is_noticed_in_b10_which_is_not_passed_to_the_model(tmp_path):
    def add(pixels):
        pixels += 1000

    path = write_scene(tmp_path / "scene.tif", change=add)
    with pytest.warns(UserWarning, match=r"scene\.tif: the median of B10 is 900 or more"), Scene([path], processor()):
        pass


def test_a_scene_without_a_band_of_the_processor_is_refused(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "height": 16, "width": 16, "dtype": "uint16"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as dataset:
        dataset.write(np.ones((1, 16, 16), np.uint16))
        dataset.descriptions = ("B10",)
    with pytest.raises(ValueError, match=r"scene\.tif: expected some of the bands B1 .*, found B10"):
        Scene([tmp_path / "scene.tif"], processor())
