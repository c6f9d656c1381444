"""Pretraining: tokens without data, the choice of masked tokens, and the losses."""

import pytest
import torch

from spectralgpt_hf import (
    SpectralGPTForPreTraining,
)
from spectralgpt_hf.modeling.modeling_spectralgpt import patchify
from tests import parity
from tests.modeling.networks import half_masked, images, small_model


# Tokens without data


def test_the_encoder_ignores_tokens_without_data_even_nan():
    model, pixel_values, mask = small_model(), images(), half_masked()
    spoilt = pixel_values.clone()
    spoilt[..., 16:] = float("nan")
    with torch.no_grad():
        clean, dirty = model(pixel_values, attention_mask=mask), model(spoilt, attention_mask=mask)
        valid_only = model(pixel_values, ids_keep=mask[0].nonzero().T.expand(2, -1))
    kept = mask[0].bool()
    torch.testing.assert_close(dirty.last_hidden_state[:, kept], clean.last_hidden_state[:, kept], rtol=0, atol=1e-6)
    torch.testing.assert_close(dirty.pooler_output, clean.pooler_output, rtol=0, atol=1e-6)
    torch.testing.assert_close(clean.last_hidden_state[:, kept], valid_only.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(clean.pooler_output, valid_only.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masking", ["random", "spatial", "spectral"])
def test_pretraining_ignores_tokens_without_data_even_nan(masking):
    model = small_model(SpectralGPTForPreTraining, mask_ratio=0.5, masking=masking)
    pixel_values, mask = images(), half_masked()
    noise = parity.random_input(3, 2, {"random": 64, "spatial": 16, "spectral": 4}[masking])
    spoilt = pixel_values.clone()
    spoilt[..., 16:] = float("nan")
    with torch.no_grad():
        clean, dirty = (model(values, noise=noise, attention_mask=mask) for values in (pixel_values, spoilt))
    kept = mask[0].bool()
    torch.testing.assert_close(dirty.loss, clean.loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(dirty.logits[:, kept], clean.logits[:, kept], rtol=0, atol=1e-6)


def test_pretraining_on_half_an_image_equals_pretraining_on_its_valid_tokens_alone():
    """The same 20 visible tokens, the other half absent rather than masked: written out with the model's own parts."""
    model = small_model(SpectralGPTForPreTraining, mask_ratio=1 - 20.5 / 64)
    pixel_values, mask = images(1), half_masked(1)
    noise = parity.random_input(3, 1, 64)
    valid = mask[0].nonzero().flatten()
    with torch.no_grad():
        output = model(pixel_values, noise=noise, attention_mask=mask)
        ids_keep = valid[noise[0, valid].argsort()[:20]][None]
        encoded = model.spectralgpt(pixel_values, ids_keep=ids_keep).last_hidden_state
        decoder = model.decoder
        tokens = decoder.mask_token.expand(1, 64, -1).clone()
        tokens[0, ids_keep[0]] = decoder.embed(encoded[0])
        tokens = (tokens + decoder.position_embeddings(4, 4, 4))[:, valid]
        for layer in decoder.layers:
            tokens = layer(tokens)
        logits = decoder.prediction(decoder.layernorm(tokens))
        error = logits - patchify(pixel_values, model.config)[:, valid]
        removed = torch.tensor([token not in ids_keep for token in valid])
        token_loss = error[:, removed].square().mean()
        spectral_loss = error.reshape(1, 4, 8, 192).sum(1).square().mean()
    torch.testing.assert_close(output.logits[:, valid], logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.token_loss, token_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.spectral_loss, spectral_loss, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_images_however_much_data_they_hold():
    model = small_model(SpectralGPTForPreTraining, mask_ratio=0.5)
    pixel_values, noise = images(4), parity.random_input(3, 4, 64)
    mask = (parity.random_input(5, 4, 64) < torch.tensor([0.3, 0.6, 2.0, -1.0])[:, None]).long()  # the last has none
    with torch.no_grad():
        whole = model(pixel_values, noise=noise, attention_mask=mask)
        parts = [
            model(pixel_values[i : i + 1], noise=noise[i : i + 1], attention_mask=mask[i : i + 1]) for i in range(4)
        ]
    for name in ("loss", "token_loss", "spectral_loss"):
        torch.testing.assert_close(whole[name], torch.stack([part[name] for part in parts]).mean())
    assert parts[3].loss == 0


def test_tokens_without_data_are_never_kept_while_others_remain():
    model = small_model(SpectralGPTForPreTraining, mask_ratio=0.4)
    _, mask, _ = model.sample_mask((4, 4, 4), torch.rand(2, 64), half_masked())
    assert (mask[:, half_masked()[0] == 1] == 0).all()
    assert (mask == 0).sum() == 2 * int(64 * 0.6)


def test_an_image_without_any_data_gives_no_nan():
    model = small_model(SpectralGPTForPreTraining)
    output = model(torch.full((1, 12, 32, 32), float("nan")), attention_mask=torch.zeros(1, 64, dtype=torch.long))
    assert output.loss == 0
    assert torch.isfinite(output.logits).all()


# Masking and the losses


@pytest.mark.parametrize(
    ("masking", "ratio", "kept_positions", "kept_groups"), [("spatial", 0.75, 4, 4), ("spectral", 0.9, 16, 1)]
)
def test_whole_patch_positions_or_whole_groups_are_kept(masking, ratio, kept_positions, kept_groups):
    model = small_model(SpectralGPTForPreTraining, masking=masking, mask_ratio=ratio)
    noise = torch.rand(3, {"spatial": 16, "spectral": 4}[masking])
    ids_keep, mask, ids_restore = model.sample_mask((4, 4, 4), noise)
    visible = mask.reshape(3, 4, 16) == 0
    assert (visible.any(1).sum(1) == kept_positions).all()
    assert (visible.any(2).sum(1) == kept_groups).all()
    assert (visible.sum((1, 2)) == kept_positions * kept_groups).all()
    assert torch.equal(ids_restore.gather(1, ids_keep), torch.arange(ids_keep.shape[1]).expand(3, -1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"noise": torch.rand(2, 64)}, r"`noise` must have shape \(2, 16\) for masking='spatial', got \(2, 64\)"),
        ({"noise": torch.rand(1, 16)}, r"`noise` must have shape \(2, 16\) .* got \(1, 16\)"),
        ({"noise": torch.rand(2, 16).bfloat16()}, "`noise` must be float32, got torch.bfloat16"),
        ({"attention_mask": torch.ones(2, 16)}, r"`attention_mask` must have shape \(2, 64\) .* got \(2, 16\)"),
        ({"attention_mask": torch.ones(1, 64)}, r"`attention_mask` must have shape \(2, 64\) .* got \(1, 64\)"),
    ],
)
def test_noise_and_masks_of_another_shape_or_precision_are_refused(inputs, message):
    model = small_model(SpectralGPTForPreTraining, masking="spatial")
    with pytest.raises(ValueError, match=message):
        model(images(), **inputs)


def test_noise_is_given_by_keyword_only_and_the_second_argument_is_the_attention_mask():
    model = small_model(SpectralGPTForPreTraining)
    noise = torch.rand(2, 64)
    by_position, by_name = (
        model(images(), half_masked(), noise=noise),
        model(images(), attention_mask=half_masked(), noise=noise),
    )
    assert torch.equal(by_position.loss, by_name.loss)
    with pytest.raises(TypeError, match="positional argument"):
        model(images(), half_masked(), noise)


def test_noise_is_drawn_in_float32_in_a_half_model():
    model = small_model(SpectralGPTForPreTraining).bfloat16()
    output = model(images().bfloat16())
    assert output.mask.dtype == torch.float32
    assert output.loss.dtype == torch.float32


def test_losses_are_those_of_the_specification_written_out():
    model = small_model(SpectralGPTForPreTraining, norm_pix_loss=True, token_loss_weight=2.0, spectral_loss_weight=0.5)
    pixel_values = images()
    with torch.no_grad():
        output = model(pixel_values, noise=torch.rand(2, 64))
    target = patchify(pixel_values, model.config)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    token_loss = (output.logits - target).square().mean(-1)[output.mask == 1].mean()
    sums = output.logits.reshape(2, 4, 16, 192).sum(1), target.reshape(2, 4, 16, 192).sum(1)
    spectral_loss = (sums[0] - sums[1]).square().mean()
    torch.testing.assert_close(output.token_loss, token_loss)
    torch.testing.assert_close(output.spectral_loss, spectral_loss)
    torch.testing.assert_close(output.loss, 2 * token_loss + 0.5 * spectral_loss)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruction_keeps_visible_tokens_and_fills_in_the_others(norm_pix_loss):
    model = small_model(SpectralGPTForPreTraining, norm_pix_loss=norm_pix_loss)
    pixel_values, noise = images(), torch.rand(2, 64)
    output = model(pixel_values, noise=noise)
    reconstruction = patchify(model.reconstruct(pixel_values, noise=noise), model.config)
    target = patchify(pixel_values, model.config)
    prediction = output.logits
    if norm_pix_loss:
        prediction = prediction * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    assert torch.equal(reconstruction[output.mask == 0], target[output.mask == 0])
    torch.testing.assert_close(reconstruction[output.mask == 1], prediction[output.mask == 1])
