import numpy as np
import pytest

from spectralgpt_hf.inference.similarity import similarity_map


def test_positions_with_the_same_features_are_most_similar_and_the_mean_does_not_count():
    kinds = np.array([[0, 0, 1], [1, 0, 1]])
    features = 100 + np.stack([kinds, 1 - kinds]).astype(np.float32)
    expected = np.where(kinds == 0, 1, -1)
    np.testing.assert_allclose(similarity_map(features, 0, 0), expected, atol=1e-6)


def test_positions_without_data_have_no_similarity_and_leave_the_others_as_they_are():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(4, 1, 5))
    with_gap = np.concatenate([features, np.full((4, 1, 1), np.nan)], axis=2)
    found = similarity_map(with_gap, 0, 2)
    np.testing.assert_allclose(found[:, :5], similarity_map(features, 0, 2))
    assert np.isnan(found[0, 5])
    assert np.isnan(similarity_map(with_gap, 0, 5)).all()


def test_a_position_outside_is_an_error():
    with pytest.raises(IndexError):
        similarity_map(np.zeros((2, 3, 3)), 3, 0)
