import numpy as np
import pytest
import torch

from spectralgpt_hf.training.transforms import (
    beta_quantile,
    box_masks,
    flip_and_rotate,
    mix,
    random_erasing,
    soft_targets,
    stretch_ranges,
    vary_atmosphere,
)


def test_image_and_map_turn_together_by_all_eight_symmetries():
    image = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(8, 1, 1, 1)
    uniform = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]) * 0.5
    images, maps = flip_and_rotate([image, image[:, 0].long()], uniform)
    assert torch.equal(images[:, 0].long(), maps)
    square = image[0, 0].numpy()
    expected = {np.rot90(turned, k).tobytes() for turned in (square, square.T) for k in range(4)}
    assert {turned.numpy().tobytes() for turned in images[:, 0]} == expected
    assert torch.equal(images[7], image[7])


def test_only_squares_are_turned():
    with pytest.raises(ValueError, match="got 4 x 6 px"):
        flip_and_rotate([torch.zeros(1, 1, 4, 6)], torch.zeros(1, 3))


def test_a_stretched_band_is_scaled_with_the_extremes_of_an_image_that_holds_more():
    images = torch.rand(2, 3, 8, 8)
    uniform = torch.rand(2, 8)
    stretched = stretch_ranges(images, uniform, 0.5)
    for image, numbers, result in zip(images, uniform, stretched):
        for band in range(3):
            darkest = -0.5 * numbers[0] * numbers[2 + band]
            brightest = 1 + 0.5 * numbers[1] * numbers[5 + band]
            torch.testing.assert_close(result[band], (image[band] - darkest) / (brightest - darkest))
    assert torch.equal(stretch_ranges(images, uniform, 0.0), images)
    with pytest.raises(ValueError, match="got -1"):
        stretch_ranges(images, uniform, -1)


def test_a_box_of_some_images_is_erased_with_their_means():
    images = torch.rand(2, 3, 32, 32)
    uniform = torch.tensor([[0.1, 0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.5, 0.5, 0.5]])
    erased = random_erasing(images, uniform, probability=0.25)
    assert torch.equal(erased[1], images[1])
    changed = (erased[0] != images[0]).all(0)
    share = changed.float().mean().item()
    assert share == pytest.approx(0.02 + 0.31 * 0.5, abs=0.03)
    torch.testing.assert_close(erased[0][:, changed], images[0].mean((1, 2))[:, None].expand(-1, int(changed.sum())))


def test_labels_are_smoothed_over_all_classes():
    expected = torch.tensor([[0.05, 0.9 + 0.05]])
    torch.testing.assert_close(soft_targets(torch.tensor([1]), 2, smoothing=0.1), expected)


def test_mixup_mixes_images_and_targets_by_the_same_share():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    uniform = torch.tensor([[0.9, 0.2, 0.0, 0.0], [0.9, 0.7, 0.0, 0.0]])
    mixed, targets = mix(images, torch.eye(2), uniform, mixup=1.0)  # beta(1, 1) is uniform
    torch.testing.assert_close(mixed.mean((1, 2, 3)), torch.tensor([0.2, 1 - 0.7]), atol=1e-3, rtol=0)
    torch.testing.assert_close(targets, torch.tensor([[0.8, 0.2], [0.7, 0.3]]), atol=1e-3, rtol=0)


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    images = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    uniform = torch.tensor([[0.0, 0.3, 0.0, 0.1], [0.0, 0.6, 0.9, 0.5]])  # boxes reach beyond the image
    mixed, targets = mix(images, torch.eye(2), uniform, cutmix=1.0)
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(targets[:, 1], mixed.mean((1, 2, 3)))
    assert 0 < targets[0, 1] < 0.3


def test_both_mixings_have_an_even_chance_and_none_leaves_the_batch():
    generator = torch.Generator().manual_seed(0)
    images, uniform = torch.rand(400, 1, 8, 8, generator=generator), torch.rand(400, 4, generator=generator)
    mixed, _ = mix(images, torch.eye(2).repeat(200, 1), uniform, mixup=0.8, cutmix=1.0)
    pasted = ((mixed == images) | (mixed == images.roll(-1, 0))).flatten(1).all(1)
    assert pasted.float().mean() == pytest.approx(0.5, abs=0.08)
    assert mix(images, uniform, uniform)[0] is images


def test_the_shares_follow_the_beta_distribution():
    stats = pytest.importorskip("scipy.stats")
    uniform = torch.linspace(0.01, 0.99, 25)
    expected = torch.tensor(stats.beta(0.8, 0.8).ppf(uniform.numpy())).float()
    torch.testing.assert_close(beta_quantile(uniform, 0.8), expected, atol=2e-3, rtol=0)


def test_boxes_are_where_their_shares_say():
    mask = box_masks(torch.tensor([[0.25, 0.5]]), torch.tensor([[0.5, 0.25]]), (8, 8))[0, 0]
    assert mask.nonzero().tolist() == [[row, column] for row in range(2, 6) for column in (4, 5)]


def test_the_atmosphere_brightens_blue_most_and_dims_water_vapour():
    bands = ("B2", "B8", "B9", "B12")
    images = torch.full((2, 4, 3, 3), 1000.0)
    draws = torch.full((2, 7), 0.5)  # no change of calibration
    draws[:, 0], draws[:, 1] = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    clear, hazy = vary_atmosphere(images, bands, draws)[:, :, 0, 0].tolist()
    assert clear[0] < clear[1] < 1000 < hazy[3] < hazy[1] < hazy[0] == pytest.approx(1000 + 1100 * (443 / 492.7) ** 4)
    assert clear[2] == pytest.approx(1000, abs=20)
    assert hazy[2] == pytest.approx(250 + 1100 * (443 / 945.1) ** 4)
    assert torch.equal(vary_atmosphere(torch.ones(1, 4, 2, 2), bands, draws[:1], 0.0), torch.ones(1, 4, 2, 2))
