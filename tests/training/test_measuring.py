"""Statistics of training sets: of scenes, of all windows, and of the values of regression."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_image_masks
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.measuring import measure_by_scene, measure_over, value_statistics
from tests.data.files import write_image


BANDS = list(L2A_BANDS)


def test_scenes_of_single_images_are_measured_one_by_one(tmp_path):
    for number in (1, 2):
        write_image(tmp_path / "images" / f"{number}.tif", np.full((12, 16, 16), 1000 * number, np.uint16))
        write_image(tmp_path / "masks" / f"{number}.png", np.zeros((16, 16), np.uint8))
    rows = load_image_masks(tmp_path, "all", classes=["a"], band_names=BANDS)
    found = measure_by_scene(rows, SpectralGPTImageProcessor())
    assert {scene: values["mean"][0] for scene, values in found.items()} == {"1": 1000, "2": 2000}


@pytest.mark.parametrize("unit", [1, 1e-4])  # digital numbers, reflectance
@pytest.mark.filterwarnings("ignore")
def test_statistics_of_a_training_set_are_those_of_all_pixels_of_every_window_once(tmp_path, unit):
    rng = np.random.default_rng(0)
    pixels = rng.gamma(2, 500, (12, 256, 256)).astype(np.uint16) + np.uint16(1)
    pixels[:, :, :20] = 0  # no data
    pixels[3, 50, 60:70] = 65535  # saturated, which is no measurement
    stored = pixels if unit == 1 else np.where(pixels == 65535, 9999, pixels).astype(np.float32) * np.float32(unit)
    write_image(tmp_path / "images" / "a.tif", stored)
    write_image(tmp_path / "masks" / "a.png", np.zeros((256, 256), np.uint8))
    rows = load_image_masks(tmp_path, "all", classes=["x"], band_names=BANDS, size=128)
    twice = datasets.concatenate_datasets([rows, rows])
    found = measure_over(twice, SpectralGPTImageProcessor())
    assert found["pixels"] == 256 * 236
    for i in range(12):
        values = stored[i, :, 20:].astype(float)
        values = values[values != 65535]
        assert found["minimum"][i] == pytest.approx(values.min())
        assert found["maximum"][i] == pytest.approx(values.max())
        assert found["mean"][i] == pytest.approx(values.mean())
        assert found["std"][i] == pytest.approx(values.std())
        assert found["percentile_99"][i] == pytest.approx(np.percentile(values, 99))


def test_values_have_a_mean_and_a_deviation_that_is_never_zero():
    rows = datasets.Dataset.from_dict({"labels": [[1.0, 5.0], [3.0, 5.0]]})
    mean, std = value_statistics(rows)
    assert torch.equal(mean, torch.tensor([2.0, 5.0]))
    assert torch.equal(std, torch.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="Expected finite values in the column `label`"):
        value_statistics(datasets.Dataset.from_dict({"label": [1.0, float("nan")]}))


def test_saturated_values_stay_out_of_statistics_when_the_reader_applies_an_offset(tmp_path):
    pixels = np.random.default_rng(0).integers(1001, 3000, (12, 32, 32), dtype=np.uint16)
    pixels[3, 5, 5:9] = 65535
    write_image(tmp_path / "images" / "a.tif", pixels)
    write_image(tmp_path / "masks" / "a.png", np.zeros((32, 32), np.uint8))
    rows = load_image_masks(tmp_path, "all", classes=["x"], band_names=BANDS)
    rows = rows.cast_column("pixels", replace(rows.features["pixels"], offset=-1000))
    found = measure_over(rows, SpectralGPTImageProcessor())
    values = pixels[3][pixels[3] != 65535].astype(float) - 1000
    assert found["maximum"][3] == values.max() < 2000
    assert found["mean"][3] == pytest.approx(values.mean())
