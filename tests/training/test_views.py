import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.data.keyed_random import keyed_uniform
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.training.crops import random_resized_crop
from spectralgpt_hf.training.views import OUTLIERS, ViewRecipe, join_views, make_views
from tests.parity import config


CONFIG = config("toy")
CPU = torch.device("cpu")


def one_batch(folder, images):
    rows = [ShardRow(str(i), image, CONFIG.bands) for i, image in enumerate(images)]
    write_shards(rows, folder)
    (batch,) = ShardStream(folder, CONFIG.bands, len(images), shuffle=False).batches()
    return batch


def images(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(1, 5000, (CONFIG.num_channels, *size)).astype(np.uint16) for size in sizes]


def test_views_are_crops_of_each_image_scaled_as_a_whole(tmp_path):
    samples = images((40, 40), (32, 48))
    views = make_views(one_batch(tmp_path, samples), CONFIG, 5, 2, CPU)
    assert views["attention_mask"] is None
    for number, sample in enumerate(samples):
        image = torch.from_numpy(sample).float()
        low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
        uniform = keyed_uniform(5, 2, torch.tensor([number]), 5)
        expected = random_resized_crop(((image - low) / (high - low))[None], uniform, CONFIG.image_size)[0]
        assert torch.allclose(views["pixel_values"][number], expected, atol=1e-5)


def test_turned_and_stretched_views_show_the_same_crops(tmp_path):
    samples = images(*[(40, 40)] * 16)
    for sample in samples[:8]:
        sample[:, :, 15:25] = 0
    batch = one_batch(tmp_path, samples)
    plain = make_views(batch, CONFIG, 0, 0, CPU)
    turned = make_views(batch, CONFIG, 0, 0, CPU, ViewRecipe(symmetries=True))
    stretched = make_views(batch, CONFIG, 0, 0, CPU, ViewRecipe(stretch=0.5))
    side = CONFIG.image_size // CONFIG.patch_size
    symmetries = set()
    for i in range(16):
        pixels, tokens = plain["pixel_values"][i], plain["attention_mask"][i].unflatten(0, (-1, side, side))
        for k in range(8):
            both = (pixels.rot90(k, (1, 2)), tokens.rot90(k, (1, 2)))
            both = tuple(x.flip(-1) for x in both) if k > 3 else both
            if torch.equal(both[0], turned["pixel_values"][i]):
                symmetries.add(k)
                assert torch.equal(both[1].flatten(), turned["attention_mask"][i])
                break
        else:
            raise AssertionError("not one of the eight symmetries")
    assert len(symmetries) > 4
    assert torch.equal(plain["attention_mask"], stretched["attention_mask"])
    kept = plain["pixel_values"][0] != 0
    both = torch.stack([plain["pixel_values"][0][0][kept[0]], stretched["pixel_values"][0][0][kept[0]]])
    assert torch.corrcoef(both)[0, 1] > 0.9999  # scaled, band by band
    assert both[0].std() / 2 < both[1].std() < both[0].std()
    assert (stretched["pixel_values"][0][~kept] == 0).all()


def test_a_view_does_not_depend_on_the_rest_of_the_batch(tmp_path):
    samples = images((40, 40), (40, 40), (40, 40))
    together = make_views(one_batch(tmp_path / "a", samples), CONFIG, 0, 0, CPU)
    alone = make_views(one_batch(tmp_path / "b", samples[:1]), CONFIG, 0, 0, CPU)
    assert torch.allclose(together["pixel_values"][:1], alone["pixel_values"], atol=1e-6)
    assert torch.equal(together["noise"][:1], alone["noise"])


def test_tokens_with_a_pixel_without_data_are_in_no_loss(tmp_path):
    samples = images((64, 64), (64, 64))
    samples[0][:, :, 20:40] = 0
    views = make_views(one_batch(tmp_path / "a", samples), CONFIG, 0, 0, CPU)
    mask = views["attention_mask"]
    assert 0 < mask[0].float().mean() < 1
    assert mask[1].all()
    model = SpectralGPTForPreTraining(CONFIG)
    torch.manual_seed(0)
    loss = model(**views).loss
    assert torch.isfinite(loss)
    views["pixel_values"][0].unfold(1, 8, 8).unfold(2, 8, 8)[
        :, mask[0].view(-1, *[CONFIG.image_size // 8] * 2)[0] == 0
    ] = 99.0
    assert model(**views).loss.item() == pytest.approx(loss.item(), rel=1e-6)


def test_an_image_without_data_adds_nothing(tmp_path):
    (sample,) = images((64, 64))
    views = make_views(one_batch(tmp_path, [sample, np.zeros_like(sample)]), CONFIG, 0, 0, CPU)
    model = SpectralGPTForPreTraining(CONFIG)
    both = model(**views)
    both.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    alone = model(views["pixel_values"][:1], noise=views["noise"][:1])
    assert both.loss.item() == pytest.approx(alone.loss.item() / 2, rel=1e-5)


def test_zscore_views_are_crops_of_what_the_processor_serves(tmp_path):
    samples = images((40, 40), (40, 40))
    samples[0][:, 15:25] = 60_000  # a cloud
    mean, std = [2000.0 + band for band in range(CONFIG.num_channels)], [900.0] * CONFIG.num_channels
    recipe = ViewRecipe((torch.tensor(mean), torch.tensor(std)))
    views = make_views(one_batch(tmp_path, samples), CONFIG, 5, 2, CPU, recipe)
    processor = SpectralGPTImageProcessor(bands=CONFIG.bands, normalization="zscore", mean=mean, std=std)
    served = processor(samples, band_names=CONFIG.bands)["pixel_values"]
    expected = random_resized_crop(served, keyed_uniform(5, 2, torch.arange(2), 5), CONFIG.image_size)
    assert expected.max() > OUTLIERS
    assert torch.allclose(views["pixel_values"], expected.clamp(-OUTLIERS, OUTLIERS), atol=1e-4)


def test_two_views_of_an_image_differ_in_crop_mask_and_atmosphere(tmp_path):
    (sample,) = images((40, 40))
    batch = one_batch(tmp_path, [sample])
    limits = (torch.zeros(CONFIG.num_channels), torch.full((CONFIG.num_channels,), 10_000.0))
    first, second, hazy = (
        make_views(batch, CONFIG, 0, 0, CPU, ViewRecipe(limits, atmosphere=strength), view)
        for strength, view in ((0.0, 0), (0.0, 1), (1.0, 0))
    )
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.equal(first["noise"], second["noise"])
    scaled = torch.stack([first["pixel_values"][0, 0].flatten(), hazy["pixel_values"][0, 0].flatten()])
    assert not torch.equal(*scaled)
    assert torch.corrcoef(scaled)[0, 1] > 0.9999
    both = join_views([first, second])
    assert torch.equal(both["pixel_values"][1:], second["pixel_values"])
    assert torch.equal(both["noise"][:1], first["noise"])
