"""Heads with `pixel_skip`, which see the input beside the features of the encoder."""

import numpy as np
import pytest
import torch

from spectralgpt_hf import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from spectralgpt_hf.modeling.modeling_spectralgpt import band_statistics, num_band_statistics, skipped_pixels
from tests.modeling.networks import half_masked, images, small_config, small_model


HEADS = (SpectralGPTForImageClassification, SpectralGPTForSemanticSegmentation)


def skipping(model_class, **options):
    return small_model(model_class, pixel_skip=True, num_labels=3, decode_hidden_size=16, **options)


def logits(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).logits


def expected_statistics(band):
    """Return the statistics of (n, P, P) patches of one band, by NumPy."""
    expected = [band.mean(), -np.logaddexp(0, -band).mean()]
    while band.shape[-1] % 2 == 0:
        quarters = band.reshape(len(band), band.shape[1] // 2, 2, band.shape[2] // 2, 2)
        means = quarters.mean((2, 4), keepdims=True)
        expected.append(np.log(np.abs(quarters - means).mean() + 0.01))
        band = means[:, :, 0, :, 0]
    return np.array(expected)


def cut_patches(band, patch):
    rows, columns = (size // patch for size in band.shape)
    return band.reshape(rows, patch, columns, patch).swapaxes(1, 2).reshape(-1, patch, patch)


@pytest.mark.parametrize(("patch", "number"), [(8, 5), (12, 4), (16, 6), (5, 2)])
def test_the_statistics_of_bands_are_those_of_numpy(patch, number):
    pixels = torch.randn(2, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    found = band_statistics(pixels, patch).unflatten(1, (-1, 3)).transpose(1, 2).numpy()
    expected = [[expected_statistics(cut_patches(band, patch)) for band in image] for image in pixels.numpy()]
    assert found.shape == (2, 3, number) == (2, 3, num_band_statistics(patch))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_statistics_leave_out_tokens_without_data():
    config = small_config()
    patch, bands = config.patch_size, config.num_channels
    pixels, mask = skipped_pixels(images(), config, half_masked())
    found = band_statistics(pixels, patch, mask).numpy()
    compared = 0
    for image, counted, statistics in zip(pixels.numpy(), mask.numpy(), found):
        for band in range(bands):
            with_data = cut_patches(counted[band], patch).any((1, 2))
            if with_data.any():
                expected = expected_statistics(cut_patches(image[band], patch)[with_data])
                np.testing.assert_allclose(statistics[band::bands], expected, rtol=1e-4, atol=1e-5)
                compared += 0 < with_data.mean() < 1
    assert compared


def test_a_classifier_sees_the_pooled_output_and_the_statistics():
    model = skipping(SpectralGPTForImageClassification)
    with torch.no_grad():
        pooled = model.spectralgpt(images()).pooler_output
        seen = torch.cat([pooled, band_statistics(images(), model.config.patch_size)], 1)
        torch.testing.assert_close(logits(model, images()), model.classifier(seen))


def test_a_segmentation_head_adds_a_linear_map_of_each_pixel():
    model = skipping(SpectralGPTForSemanticSegmentation)
    plain = small_model(SpectralGPTForSemanticSegmentation, num_labels=3, decode_hidden_size=16)
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing.unexpected_keys == ["decode_head.pixel_classifier.weight"]
    weight = model.decode_head.pixel_classifier.weight[:, :, 0, 0]
    expected = logits(plain, images()) + torch.einsum("bchw,kc->bkhw", images(), weight.detach())
    torch.testing.assert_close(logits(model, images()), expected)


@pytest.mark.parametrize("model_class", HEADS)
def test_values_without_data_change_nothing(model_class):
    model, mask = skipping(model_class), half_masked()
    damaged = images().masked_fill(~skipped_pixels(images(), model.config, mask)[1], 1e4)
    assert not torch.equal(damaged, images())
    assert torch.equal(logits(model, damaged, mask), logits(model, images(), mask))


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
def test_a_series_of_one_date_equals_the_image_and_dates_without_data_change_nothing(model_class, attention_mask):
    model, pixels = skipping(model_class), images()
    expected = logits(model, pixels, attention_mask)
    mask = None if attention_mask is None else attention_mask[:, None]
    assert torch.equal(logits(model, pixels[:, None], mask), expected)
    two = torch.stack([pixels, torch.full_like(pixels, 7.0)], 1)
    full = torch.ones_like(half_masked()) if attention_mask is None else attention_mask
    found = logits(model, two, torch.stack([full, torch.zeros_like(full)], 1))
    torch.testing.assert_close(found, logits(model, pixels, full))
    torch.testing.assert_close(logits(model, two[:, [1, 0]]), logits(model, two))


def test_the_bands_that_pad_the_last_group_have_no_statistics():
    bands = ["490nm", "560nm", "665nm", "842nm"]
    model = skipping(SpectralGPTForImageClassification, num_channels=4, bands=bands, sensor="drone")
    assert model.classifier.in_features == model.config.hidden_size + 4 * num_band_statistics(model.config.patch_size)
    tokens = half_masked().shape[1] // small_config().num_groups * 2
    assert logits(model, images()[:, :4], torch.ones(len(images()), tokens)).isfinite().all()


def test_another_number_of_bands_is_refused():
    model = skipping(SpectralGPTForSemanticSegmentation)
    with pytest.raises(ValueError, match=r"takes images of 12 bands .*got 9"):
        model(images()[:, :9])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.resize_bands(model.config.bands)
    with pytest.raises(ValueError, match="resize the encoder, and then fine-tune"):
        model.resize_bands(model.config.bands[:6])
    with pytest.raises(ValueError, match="resize the encoder, and then fine-tune"):
        model.resize_positions(model.config.image_size, model.config.bands[:6])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def pair_model(**options):
    return small_model(SpectralGPTForChangeDetection, num_labels=2, decode_hidden_size=16, **options)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return images(), images().flip(0) * 0.7 + 0.1


def test_a_change_head_adds_a_linear_map_of_each_pixel_at_both_dates():
    model, plain = pair_model(pixel_skip=True), pair_model()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing.unexpected_keys == ["decode_head.pixel_classifier.weight"]
    weight = model.decode_head.pixel_classifier.weight[:, :, 0, 0]
    assert weight.shape == (2, 2 * model.config.num_channels)
    added = torch.einsum("bchw,kc->bkhw", torch.cat(pair(), 1), weight.detach())
    torch.testing.assert_close(logits(model, *pair()), logits(plain, *pair()) + added)


def test_values_that_one_date_lacks_do_not_reach_the_map_of_pixels_of_either_date():
    model, mask = pair_model(pixel_skip=True), half_masked()
    missing = ~skipped_pixels(images(), model.config, mask)[1]
    seen = []
    model.decode_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    damaged = pair()[1].masked_fill(missing, 1e4)
    before, after = pair()
    expected = logits(model, before, after, attention_mask_after=mask)
    assert torch.equal(logits(model, before, damaged, attention_mask_after=mask), expected)
    first, second = seen[0].chunk(2, dim=1)
    assert not first[missing].any()
    assert not second[missing].any()
    assert torch.equal(first[~missing], before[~missing])


def test_a_change_model_is_saved_loaded_and_compiled_without_a_graph_break(tmp_path):
    model = pair_model(pixel_skip=True, num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    loaded = SpectralGPTForChangeDetection.from_pretrained(tmp_path)
    compiled = torch.compile(loaded, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled, *pair()), logits(model, *pair()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model_class", HEADS)
def test_it_is_saved_loaded_and_compiled_without_a_graph_break(model_class, tmp_path):
    model = skipping(model_class, num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert loaded.config.pixel_skip
    compiled = torch.compile(loaded, fullgraph=True, backend="eager")
    expected = logits(model, images(), half_masked())
    torch.testing.assert_close(logits(compiled, images(), half_masked()), expected, rtol=0, atol=1e-4)
    encoder, info = SpectralGPTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(encoder.layernorm.weight, model.spectralgpt.layernorm.weight)


def test_the_gradient_of_an_image_of_one_value_is_finite():
    model = skipping(SpectralGPTForImageClassification)
    pixels = torch.full_like(images(), 0.3).requires_grad_()
    model(pixels).logits.sum().backward()
    assert pixels.grad.isfinite().all()
