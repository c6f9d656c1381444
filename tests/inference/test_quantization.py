import warnings

import numpy as np
import pytest

from spectralgpt_hf.inference.quantization import least_cosine, quantize_rows, to_half, warn_of_coarse_steps


def test_half_floats_end_at_their_largest_number_with_a_warning():
    values = np.array([1.0, -7e4, 1e9, np.nan], np.float32)
    with pytest.warns(UserWarning, match="65,504.*float32"):
        stored = to_half(values)
    np.testing.assert_array_equal(stored, np.array([1, -65504, 65504, np.nan], np.float16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_half(np.array([65504.0, np.nan]))


def test_integers_keep_the_direction_and_the_nearest_neighbours_of_vectors():
    vectors = np.random.default_rng(0).normal(size=(400, 192)).astype(np.float32) * 10
    integers, scales = quantize_rows(vectors)
    restored = integers * scales[:, None]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = integers / np.linalg.norm(integers.astype(float), axis=1, keepdims=True)
    assert (unit * whole).sum(1).min() > 0.999
    assert np.abs(vectors - restored).max() <= scales.max() / 2 * 1.001
    similarity, coarse = unit[:100] @ unit.T, whole[:100] @ whole.T
    for matrix in (similarity, coarse):
        matrix[np.arange(100), np.arange(100)] = -1
    gap = np.sort(similarity)[:, -1] - np.sort(similarity)[:, -2]
    clear = gap > 0.01  # a tie may fall either way
    assert clear.sum() > 30
    np.testing.assert_array_equal(similarity.argmax(1)[clear], coarse.argmax(1)[clear])


def test_a_vector_with_one_giant_is_warned_of():
    vectors = np.ones((2, 768), np.float32)
    vectors[1, 0] = 300
    integers, scales = quantize_rows(vectors)
    with pytest.warns(UserWarning, match=r"falls to 0\.99.*float16"):
        warn_of_coarse_steps(least_cosine(vectors, integers * scales[:, None]))


def test_a_vector_of_zeros_has_a_scale():
    integers, scales = quantize_rows(np.zeros((1, 4), np.float32))
    assert not integers.any()
    assert np.isfinite(scales).all()
