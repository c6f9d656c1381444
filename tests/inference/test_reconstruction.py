import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.inference.reconstruction import (
    band_mean,
    interpolation,
    psnr,
    reconstruct_image,
    regression,
    simple_baselines,
    spectral_angle,
)
from tests import parity


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SpectralGPTForPreTraining(parity.config("toy")).eval()


@pytest.mark.parametrize("shape", [(64, 96), (32, 32), (24, 40), (72, 40)])
def test_an_image_of_any_size_is_reconstructed_tile_by_tile(model, shape):
    image = torch.rand(12, *shape)
    result = reconstruct_image(model, image, seed=3)
    assert result.original.shape == result.reconstructed.shape == result.masked.shape == (12, *shape)
    np.testing.assert_array_equal(result.original, image.numpy())
    np.testing.assert_array_equal(result.reconstructed[~result.masked], result.original[~result.masked])
    assert 0.88 < result.masked.mean() < 0.95
    # Whole tokens of three bands are masked together.
    tokens = result.masked.reshape(4, 3, shape[0] // 8, 8, shape[1] // 8, 8)
    assert (tokens.any(axis=(1, 3, 5)) == tokens.all(axis=(1, 3, 5))).all()


def test_the_first_tile_is_what_the_model_gives_for_it_alone(model):
    image = torch.rand(12, 32, 64)
    result = reconstruct_image(model, image, seed=5)
    noise = torch.rand(2, 64, generator=torch.Generator().manual_seed(5))
    alone = model.reconstruct(image[None, :, :, 32:], noise=noise[1:])[0]
    np.testing.assert_allclose(result.reconstructed[:, :, 32:], alone.numpy(), atol=1e-5)


def test_the_masking_can_be_chosen_without_changing_the_model(model):
    before = model.config.to_dict()
    masked = reconstruct_image(model, torch.rand(12, 32, 32), mask_ratio=0.5, masking="spatial").masked
    assert masked.mean() == 0.5
    assert (masked == masked[0]).all()
    masked = reconstruct_image(model, torch.rand(12, 32, 32), mask_ratio=0.75, masking="spectral").masked
    assert sorted(masked[::3].mean(axis=(1, 2))) == [0, 1, 1, 1]
    assert model.config.to_dict() == before
    with pytest.raises(ValueError, match="mask_ratio"):
        reconstruct_image(model, torch.rand(12, 32, 32), mask_ratio=1.5)


def masked_tokens(shape, share, seed=0):
    bands, height, width = shape
    tokens = np.random.default_rng(seed).random((bands // 3, height // 8, width // 8)) < share
    return tokens.repeat(3, 0).repeat(8, 1).repeat(8, 2)


def test_the_nearest_visible_token_counts_where_all_lie_on_one_line():
    image = np.tile(np.arange(64.0), (3, 8, 1))
    masked = masked_tokens(image.shape, 0.4)
    filled = interpolation(image, masked)
    assert np.isfinite(filled).all()
    tokens, means = ~masked[0, 0, ::8], image[0].reshape(8, 8, 8).mean(axis=(0, 2))
    assert set(np.unique(filled[masked])) <= set(means[tokens])


def test_interpolation_restores_a_plane_between_the_visible_tokens():
    rows, columns = np.mgrid[:64, :64]
    image = np.stack([rows * 0.01, columns * 0.005, rows * 0.002 + columns * 0.003])
    masked = masked_tokens(image.shape, 0.5)
    masked[:, ::56, ::56] = False  # the corners' pixels stay visible
    masked[:, [0, 0, 63, 63], [0, 63, 0, 63]] = False
    for row in (0, 56):
        for column in (0, 56):
            masked[:, row : row + 8, column : column + 8] = False
    filled = interpolation(image, masked)
    np.testing.assert_allclose(filled[:, 4:-4, 4:-4], image[:, 4:-4, 4:-4], atol=1e-6)
    np.testing.assert_array_equal(filled[~masked], image[~masked])


def test_regression_restores_bands_that_are_linear_in_a_visible_group():
    rng = np.random.default_rng(0)
    first = rng.random((3, 64, 64))
    second = np.einsum("ij,jhw->ihw", rng.random((3, 3)), first) + 0.2
    image = np.concatenate([first, second])
    masked = masked_tokens(image.shape, 0.4)
    filled = regression(image, masked, fallback=np.full_like(image, -1))
    alone = masked[0] & masked[3]
    np.testing.assert_allclose(filled[:, ~alone], image[:, ~alone], atol=1e-6)
    assert (filled[:, alone] == -1).all()


def test_what_needs_no_network_uses_only_what_is_visible():
    image = np.random.default_rng(0).random((6, 64, 64))
    masked = masked_tokens(image.shape, 0.8)
    ways = simple_baselines(image, masked)
    assert len(ways) == 3
    for name, filled in simple_baselines(np.where(masked, 7.0, image), masked).items():
        np.testing.assert_allclose(filled[masked], ways[name][masked], atol=1e-9)
        np.testing.assert_array_equal(filled[~masked], image[~masked])


def test_the_band_mean_is_that_of_the_visible_pixels():
    image = np.arange(12, dtype=float).reshape(3, 2, 2)
    masked = np.zeros((3, 2, 2), bool)
    masked[1, 0, 0] = True
    expected = image.copy()
    expected[1, 0, 0] = (5 + 6 + 7) / 3
    np.testing.assert_allclose(band_mean(image, masked), expected)


def test_scores_are_those_of_the_masked_pixels_alone():
    original = np.ones((3, 1, 2))
    reconstructed = np.array([[[1.1, 9.0]], [[1.1, 9.0]], [[1.1, 9.0]]])
    masked = np.array([[[True, False]]] * 3)
    assert psnr(original, reconstructed, masked) == pytest.approx(20.0)
    assert spectral_angle(original, reconstructed, masked) == pytest.approx(0.0, abs=1e-4)
    turned = np.array([[[1.0, 0]], [[0.0, 0]], [[0.0, 0]]])
    assert spectral_angle(original, turned, masked) == pytest.approx(np.degrees(np.arccos(1 / np.sqrt(3))))
