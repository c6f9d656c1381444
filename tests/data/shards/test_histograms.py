import numpy as np
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.shards.histograms import PERCENTILES, Histograms
from spectralgpt_hf.modeling.radiometry import measure_statistics


def images(count, low=1, high=9000):
    rng = np.random.default_rng(0)
    return [rng.integers(low, high, (2, 20, 30)) for _ in range(count)]


def test_statistics_of_many_images_equal_those_of_all_their_pixels(tmp_path):
    first, second = Histograms(), Histograms()
    chips = [image.astype(np.uint16) for image in images(4)]
    chips[0][:, :5] = 0  # no data
    chips[1][0, :5] = 0  # data: the other band is not 0
    for chip in chips[:2]:
        first.add(["B3", "B2"], chip)
    for chip in chips[2:]:
        second.add(["B3", "B2"], chip)
    second.save(tmp_path / "second.npz", {"rows": 2})
    assert first.merge(tmp_path / "second.npz") == {"rows": 2}
    found = first.statistics()
    assert found["bands"] == ["B2", "B3"]  # the order of the sensor
    pixels = np.concatenate([chip[:, chip.any(0)] for chip in chips], 1).astype(float)[::-1]
    assert found["pixels"] == [pixels.shape[1]] * 2
    np.testing.assert_allclose(found["mean"], pixels.mean(1))
    np.testing.assert_allclose(found["std"], pixels.std(1))
    np.testing.assert_array_equal([found["minimum"], found["maximum"]], [pixels.min(1), pixels.max(1)])
    for percentile in PERCENTILES:
        np.testing.assert_allclose(found[f"percentile_{percentile}"], np.percentile(pixels, percentile, axis=1))


def test_negative_values_are_counted_where_an_offset_was_added():
    histograms = Histograms(lowest=-1000)
    chips = [image - 1000.0 for image in images(3)]
    chips[0][:, 0, 0] = [-1000.4, 70000]
    valid = np.ones((20, 30), bool)
    valid[:, 10:] = False
    for chip in chips:
        histograms.add(["B2", "B3"], chip, valid)
    counted = np.concatenate([chip[:, valid] for chip in chips], 1).round().clip(-1000, 65535)
    found = histograms.statistics()
    np.testing.assert_array_equal([found["minimum"], found["maximum"]], [counted.min(1), counted.max(1)])
    np.testing.assert_allclose(found["mean"], counted.mean(1))


def test_a_processor_takes_the_statistics():
    histograms = Histograms()
    bands = SpectralGPTImageProcessor().bands
    image = np.random.default_rng(0).integers(1, 9000, (12, 40, 40)).astype(np.uint16)
    histograms.add(bands, image)
    given = {"statistics_scope": "given", "normalization": "percentile"}
    of_histograms = SpectralGPTImageProcessor(**given, statistics=histograms.statistics())
    of_pixels = SpectralGPTImageProcessor(**given, statistics=measure_statistics(image, bands, band_names=bands))
    left, right = (p(image, band_names=bands, return_tensors="np") for p in (of_histograms, of_pixels))
    assert left["pixel_values"] == pytest.approx(right["pixel_values"], abs=1e-6)
