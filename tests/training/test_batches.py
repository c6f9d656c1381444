"""Batches of series: all dates are augmented together, and the model sees each date."""

import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification, SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_image_folder, load_image_masks
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.augmentation import Augmentation
from spectralgpt_hf.training.batches import collate, model_inputs
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import Samples
from tests.data.files import write_image
from tests.sizes import SMALL


DATES = ("20200103", "20200301", "20200715")


@pytest.fixture
def series(tmp_path):
    """Two series of three and two dates, of which the second has no data in the left half of its first date."""
    for name, number in (("a", 3), ("b", 2)):
        for position, date in enumerate(DATES[:number]):
            pixels = np.random.default_rng(position + 7 * number).integers(1, 3000, (12, 16, 16), dtype=np.uint16)
            if name == "b" and position == 0:
                pixels[:, :, :8] = 0
            write_image(tmp_path / name / f"site_{date}.tif", pixels)
    return load_image_folder(tmp_path, "all", band_names=list(L2A_BANDS), series=True)


def test_the_dates_of_a_series_are_one_sample_with_masked_dates_at_the_end_of_shorter_ones(series):
    assert [row["dates"] for row in series] == [
        ["2020-01-03", "2020-03-01", "2020-07-15"],
        ["2020-01-03", "2020-03-01"],
    ]
    samples = Samples(series, SpectralGPTImageProcessor())
    batch = collate([samples[0], samples[1]])
    assert batch["pixel_values"].shape == (2, 36, 16, 16)
    inputs = model_inputs(batch)
    assert inputs["pixel_values"].shape == (2, 3, 12, 16, 16)
    assert inputs["dates"][:, :2].tolist() == [[18264, 18322]] * 2
    data = inputs["attention_mask"].view(2, 3, 4, 2, 2)
    assert data[0].all()
    assert data[1, 0].tolist() == [[[0, 1], [0, 1]]] * 4
    assert data[1, 1].all()
    assert not data[1, 2].any()


def test_a_batch_of_series_gives_the_logits_of_each_alone(series):
    torch.manual_seed(0)
    config = SpectralGPTConfig(**SMALL, image_size=16, num_labels=3, temporal_fusion="attention")
    model = SpectralGPTForImageClassification(config).eval()
    samples = Samples(series, SpectralGPTImageProcessor())
    with torch.no_grad():
        together = model(**model_inputs(collate([samples[0], samples[1]]))).logits
        for number, row in enumerate(series):
            dates = [row[name] for name in ("pixels", "pixels_2", "pixels_3") if row[name] is not None]
            alone = SpectralGPTImageProcessor()([dates], dates=[row["dates"]], band_names=list(L2A_BANDS))
            torch.testing.assert_close(model(**alone).logits[0], together[number], rtol=1e-4, atol=1e-5)


def test_all_dates_are_augmented_alike(series, tmp_path):
    options = FineTuningOptions(
        output_dir=str(tmp_path), config_name="tiny", use_cpu=True, image_size=16, symmetries=True, crop_scale=0.5
    )
    samples = Samples(series, SpectralGPTImageProcessor(), native=True)
    one = samples[0]
    same = one | {"pixel_values": one["pixel_values"][:12].repeat(3, 1, 1)}
    augmented = Augmentation(options)(collate([same, samples[1]]), 0)
    first, *others = augmented["pixel_values"][0].unflatten(0, (3, 12))
    assert not torch.equal(first, same["pixel_values"][:12])
    for other in others:
        torch.testing.assert_close(other, first)
    assert model_inputs(augmented)["attention_mask"].shape == (2, 3, 16)


def test_a_window_without_data_at_any_date_has_no_labels(tmp_path):
    for date in DATES[:2]:
        write_image(tmp_path / "images" / f"a_{date}.tif", np.zeros((12, 16, 16), np.uint16))
    write_image(tmp_path / "masks" / "a.png", np.zeros((16, 16), np.uint8))
    rows = load_image_masks(tmp_path, "all", band_names=list(L2A_BANDS), series=True)
    sample = Samples(rows, SpectralGPTImageProcessor())[0]
    assert (sample["labels"] == 255).all()
    assert model_inputs(collate([sample]))["pixel_values"].shape == (1, 2, 12, 16, 16)
