import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTModel
from spectralgpt_hf.training.land_use import (
    common_classes,
    leave_one_site_out,
    majority_labels,
    share_between_sites,
    tile_features,
    tile_statistics,
)
from tests import parity


def test_features_of_tiles_are_the_means_of_the_feature_map():
    torch.manual_seed(0)
    model = SpectralGPTModel(parity.config("toy")).eval()
    image = torch.rand(12, 48, 32)  # the toy's own size is 32 px: rows 16 to 32 are in both crops
    features = tile_features(model, image, [(0, 0), (0, 16)])
    with torch.no_grad():
        maps = [model.feature_map(model(image[None, :, top : top + 32]).last_hidden_state, 32, 32) for top in (0, 16)]
    upper, lower = (map[0].unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)).permute(1, 2, 0).numpy() for map in maps)
    assert features.shape == (3, 2, model.config.hidden_size)
    np.testing.assert_allclose(features[0], upper[0], atol=1e-5)
    np.testing.assert_allclose(features[1], (upper[1] + lower[0]) / 2, atol=1e-5)
    np.testing.assert_allclose(features[2], lower[1], atol=1e-5)


def test_a_tile_alone_is_what_the_model_sees_of_it_when_the_rest_is_hidden():
    torch.manual_seed(0)
    model = SpectralGPTModel(parity.config("toy")).eval()
    image = torch.rand(12, 32, 32)
    features = tile_features(model, image, [(0, 0)], alone=True)
    visible = [group * 16 + position for group in range(4) for position in (2, 3, 6, 7)]  # the upper right of 4 x 4
    with torch.no_grad():
        expected = model(image[None], ids_keep=torch.tensor([visible])).last_hidden_state.mean(1)[0]
    np.testing.assert_allclose(features[0, 1], expected, atol=1e-5)
    image[:, :, :16] = 0
    np.testing.assert_allclose(tile_features(model, image, [(0, 0)], alone=True)[0, 1], expected, atol=1e-5)


def test_an_image_smaller_than_the_models_own_size_has_tiles_too():
    torch.manual_seed(0)
    model = SpectralGPTModel(parity.config("toy")).eval()
    image = torch.rand(12, 16, 32)  # the toy's own size is 32 px
    with torch.no_grad():
        expected = model.feature_map(model(image[None]).last_hidden_state, 16, 32)[0].unfold(2, 2, 2).mean((1, 3)).T
    np.testing.assert_allclose(tile_features(model, image, [(0, 0)])[0], expected, atol=1e-5)


def test_the_variance_splits_into_between_and_within_sites():
    sites = np.repeat(["a", "b"], 50)
    rng = np.random.default_rng(0)
    apart = np.where(sites == "a", -1.0, 1.0)[:, None]
    assert share_between_sites(np.hstack([apart, np.ones_like(apart)]), sites) == pytest.approx(1)
    assert share_between_sites(rng.normal(size=(100, 200)), sites) < 0.05
    assert share_between_sites(apart + rng.normal(size=(100, 200)), sites) == pytest.approx(0.5, abs=0.05)


def test_tiles_have_the_statistics_of_their_own_pixels():
    pixels = np.random.default_rng(0).random((3, 33, 48))
    statistics = tile_statistics(pixels)
    assert statistics.shape == (2, 3, 6)
    tile = pixels[:, 16:32, 32:48]
    np.testing.assert_allclose(statistics[1, 2], [*tile.mean(axis=(1, 2)), *tile.std(axis=(1, 2))])


def test_unknown_pixels_do_not_vote():
    labels = np.zeros((16, 32), np.uint8)
    labels[:3, :16] = 4
    labels[3, :16] = 9
    assert majority_labels(labels).tolist() == [[4, 0]]


def test_a_site_is_predicted_by_the_others_alone():
    rng = np.random.default_rng(0)
    labels = np.tile([1, 2], 60)
    sites = np.repeat(["a", "b", "c"], 40)
    features = labels[:, None] * np.array([3.0, -2.0]) + rng.normal(size=(120, 2)) * 0.1
    for classifier in ("logistic", "neighbours"):
        assert leave_one_site_out(features, labels, sites, classifier).sites == {"a": 1, "b": 1, "c": 1}
    swapped = np.where(sites == "c", 3 - labels, labels)  # what holds at c is learned nowhere else
    for classifier in ("logistic", "neighbours"):
        assert leave_one_site_out(features, swapped, sites, classifier).sites["c"] == 0
    assert leave_one_site_out(features, labels, sites, "majority").together == 0.5
    with pytest.raises(ValueError, match="logistic, neighbours, majority"):
        leave_one_site_out(features, labels, sites, "forest")


def test_accuracy_is_balanced_over_the_classes_of_a_site():
    labels = np.array([1] * 9 + [2] + [1] * 9 + [2])
    sites = np.repeat(["a", "b"], 10)
    scores = leave_one_site_out(np.zeros((20, 1)), labels, sites, "majority")
    assert scores.sites == {"a": 0.5, "b": 0.5}


def test_classes_of_one_site_cannot_be_learned_elsewhere():
    assert common_classes(np.array([1, 1, 2, 3, 3]), np.array(["a", "b", "a", "b", "b"])) == [1]
