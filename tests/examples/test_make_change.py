import numpy as np
import pytest

from examples import make_change
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import write_raster


@pytest.fixture
def images(tmp_path):
    """Two dark and two bright sites, each with some noise."""
    random, paths = np.random.default_rng(0), []
    for number, level in enumerate((500, 520, 4000, 4200)):
        path = tmp_path / f"{number}.tif"
        pixels = random.normal(level, 20, (12, 80, 70)).round().astype(np.uint16)
        write_raster(path, pixels, crs=None, transform=None, band_names=L2A_BANDS, nodata=0)
        paths.append(path)
    return paths


def test_made_pairs_differ_most_where_their_map_says_so_and_are_the_same_for_a_seed(images):
    pairs, again = (list(make_change.made_pairs(images, 12, np.random.default_rng(3))) for _ in range(2))
    changed = [mask for _, _, mask in pairs]
    assert 6 <= sum(mask.any() for mask in changed) < 12
    for (before, after, mask), same in zip(pairs, again, strict=True):
        assert all(np.array_equal(first, second) for first, second in zip((before, after, mask), same, strict=True))
        assert before.shape == after.shape == (12, 64, 64)
        if mask.any():
            distance = np.abs(np.log(after / before)).mean(0)
            assert np.median(distance[mask]) > 2 * np.median(distance[~mask])


def test_a_pair_without_a_region_of_another_site_differs_by_season_and_light(images):
    before = make_change.crop(make_change.read(images[0]), np.random.default_rng(0))
    first, second = make_change.vary(before, before, np.random.default_rng(1))
    assert not np.allclose(first, second)
    assert 0.5 < np.median(second / first) < 2


def test_the_threshold_of_a_baseline_is_the_best_one_and_its_scores_are_those_of_the_definitions():
    values, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    threshold = make_change.best_threshold(values, labels)
    assert threshold == 0.35
    assert [float(cell) for cell in make_change.row(values >= threshold, labels).split()] == [0.667, 1.0, 0.8, 0.667]


def test_intervals_come_from_whole_sites_and_are_paired():
    sites = np.repeat(np.arange(20), 50)
    labels = np.arange(1000) % 2 == 0
    found = labels & (sites < 15)  # nothing is found at a quarter of the sites
    f1 = make_change.resampled_f1(found, labels, sites)
    low, high = np.quantile(f1, (0.025, 0.975))
    assert f1.shape == (make_change.RESAMPLES,)
    assert low < 0.75 < 2 * 0.75 / 1.75 < high  # single pixels would vary by 0.03 only
    worse = found & (np.arange(1000) % 4 == 0)
    assert np.ptp(f1 - make_change.resampled_f1(worse, labels, sites)) < np.ptp(f1)
    assert (f1 == make_change.resampled_f1(found.copy(), labels, sites)).all()
    assert make_change.interval(f1).split() == [f"{low:.3f}", "to", f"{high:.3f}"]
