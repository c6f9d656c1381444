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
from spectralgpt_hf.modeling.modeling_spectralgpt import band_statistics, skipped_pixels
from tests.modeling.networks import half_masked, images, small_config, small_model


HEADS = (SpectralGPTForImageClassification, SpectralGPTForSemanticSegmentation)


def skipping(model_class, **options):
    return small_model(model_class, pixel_skip=True, num_labels=3, decode_hidden_size=16, **options)


def logits(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).logits


def test_the_statistics_of_bands_are_those_of_numpy():
    pixels, patch = images(), small_config().patch_size
    found = band_statistics(pixels, patch).numpy()
    values = pixels.numpy()
    batch, bands, height, width = values.shape
    within = values.reshape(batch, bands, height // patch, patch, width // patch, patch).std((3, 5)).mean((2, 3))
    expected = np.concatenate([values.mean((2, 3)), values.std((2, 3)), within], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_statistics_leave_out_tokens_without_data():
    config = small_config()
    pixels, mask = skipped_pixels(images(), config, half_masked())
    found = band_statistics(pixels, config.patch_size, mask).numpy()
    bands = config.num_channels
    for image, counted, statistics in zip(pixels.numpy(), mask.numpy(), found):
        for band in range(bands):
            if counted[band].any():
                values = image[band][counted[band]]
                expected = (values.mean(), values.std())
                np.testing.assert_allclose(statistics[[band, bands + band]], expected, rtol=1e-4, atol=1e-5)


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
    assert model.classifier.in_features == model.config.hidden_size + 12
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


def test_change_detection_has_no_such_head():
    with pytest.raises(ValueError, match="is for classification and segmentation"):
        small_model(SpectralGPTForChangeDetection, pixel_skip=True)


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
