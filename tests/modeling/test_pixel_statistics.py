"""Statistics by counting whole numbers: those of sorted values, in memory that does not grow with the images."""

import numpy as np
import pytest
import torch

from spectralgpt_hf.modeling import radiometry
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.pixel_statistics import ValueCounts, mean_std, minimum_maximum, percentiles
from spectralgpt_hf.modeling.radiometry import measure_statistics


SHARES = (0.0, 0.01, 0.37, 0.5, 0.99, 1.0)


def parts(dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-1000, 20_000, (3, 5000), generator=generator)
    values[2] = values[2] % 7
    masks = torch.rand(3, 5000, generator=generator) < 0.7
    return [(values[:, :1234].to(dtype), None), (values[:, 1234:].to(dtype), masks[:, 1234:])]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float32])
def test_counts_give_the_extremes_and_percentiles_of_sorted_values_to_the_last_bit(dtype):
    counts = ValueCounts(3)
    for values, valid in parts(dtype):
        assert ValueCounts.may_hold(values)
        counts.add(values, valid)
    values = torch.cat([each for each, _ in parts(dtype)], 1)[None, :, None]
    valid = torch.cat([torch.ones(3, 1234, dtype=torch.bool), parts(dtype)[1][1]], 1)[None, :, None]
    for found, expected in zip(counts.percentiles(SHARES), percentiles(values, valid, SHARES)):
        assert torch.equal(found, expected[0])
    for found, expected in zip(counts.extremes(), minimum_maximum(values, valid)):
        assert torch.equal(found, expected[0])
    for found, expected in zip(counts.mean_std(), mean_std(values.double(), valid)):
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=0)


def test_counted_values_can_be_listed_again():
    counts = ValueCounts(2)
    assert counts.samples() == []
    counts.add(torch.tensor([[5, -3, 5], [1, 1, 2]]), torch.tensor([[True, True, True], [False, True, True]]))
    ((values, valid),) = counts.samples()
    assert [band[mask].tolist() for band, mask in zip(values, valid)] == [[-3, 5, 5], [1, 2]]


@pytest.mark.parametrize("value", [0.5, 1e6, -40_000.0, float("nan"), float("inf")])
def test_other_values_than_whole_numbers_of_17_bits_cannot_be_counted(value):
    assert not ValueCounts.may_hold(torch.tensor([1.0, value]))


def scene(seed: int, fraction: float = 0.0) -> np.ndarray:
    pixels = np.random.default_rng(seed).gamma(2, 700, (12, 256, 256)).astype(np.uint16) + np.uint16(1)
    pixels[:, :, :10] = 0  # no data
    pixels[4, 100, 100:110] = 65535  # saturated, which is no measurement
    return pixels + np.float32(fraction) * (pixels > 0) if fraction else pixels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [None, -1000])
def test_many_images_are_counted_and_never_kept_together(offset, monkeypatch):
    def fail(*_):
        raise AssertionError("values of many images were sorted")

    monkeypatch.setattr(radiometry, "percentiles", fail)
    images = [scene(seed) for seed in range(5)]
    found = measure_statistics(images, L2A_BANDS, band_names=L2A_BANDS, offset=offset)
    assert found["pixels"] == 5 * 256 * 246
    for number in range(12):
        values = np.concatenate([image[number, :, 10:].ravel() for image in images]).astype(float)
        values = values[values != 65535] + (offset or 0)
        assert found["maximum"][number] == values.max()
        assert found["percentile_99"][number] == pytest.approx(np.percentile(values, 99), rel=1e-6)
        assert found["mean"][number] == pytest.approx(values.mean(), rel=1e-6)
        assert found["std"][number] == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_images_of_fractions_among_others_are_measured_with_them():
    images = [*(scene(seed) for seed in range(4)), scene(4, fraction=0.25)]
    found = measure_statistics(images, L2A_BANDS, band_names=L2A_BANDS)
    values = np.concatenate([image[0, :, 10:].ravel() for image in images]).astype(float)
    assert found["percentile_1"][0] == pytest.approx(np.percentile(values, 1), rel=1e-6)
    assert found["mean"][0] == pytest.approx(values.mean(), rel=1e-5)
