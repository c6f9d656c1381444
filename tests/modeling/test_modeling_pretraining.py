"""`decode_ratio`: reconstructing a share of the patch positions costs less and changes no expectation."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining
from tests import parity
from tests.modeling.networks import half_masked, images, small_model


MASKING_UNITS = {"random": 64, "spatial": 16, "spectral": 4}


def pretraining(masking="random", decode_ratio=0.25, **overrides):
    model = small_model(
        SpectralGPTForPreTraining, masking=masking, decode_ratio=decode_ratio, mask_ratio=0.6, **overrides
    )
    return model.train()


def test_the_default_and_evaluation_decode_everything():
    partial, complete = pretraining(), pretraining(decode_ratio=1.0)
    inputs = {"pixel_values": images(), "noise": torch.rand(2, 64)}
    assert SpectralGPTConfig().decode_ratio == 1.0
    assert torch.equal(partial.eval()(**inputs).logits, complete.eval()(**inputs).logits)
    assert torch.equal(complete.train()(**inputs).logits, complete.eval()(**inputs).logits)


@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
@pytest.mark.parametrize("masking", MASKING_UNITS)
def test_whole_patch_positions_with_data_and_all_visible_tokens_are_decoded(masking, attention_mask):
    model, grid, units = pretraining(masking), (4, 4, 4), MASKING_UNITS[masking]
    noise = torch.rand(2, units)
    ids_keep, mask, _ = model.sample_mask(grid, noise, attention_mask)
    ids_decode, weights = model.sample_decoded(grid, noise, mask, ids_keep.shape[1], attention_mask)
    decoded = torch.zeros(2, 64).scatter(1, ids_decode, 1.0).bool()
    assert ids_decode.shape == (2, 4 * 4 + ids_keep.shape[1])
    assert (decoded.sum(dim=1) == ids_decode.shape[1]).all()  # none twice
    assert decoded[mask == 0].all()
    assert ((weights > 0).sum(dim=1) == 4).all()
    assert decoded.unflatten(1, (4, 16)).all(dim=1)[weights > 0].all()
    if attention_mask is not None:
        assert (weights[:, attention_mask[0, :16] == 0] == 0).all()


def test_the_choice_is_keyed_by_the_noise_of_each_image():
    model, pixel_values = pretraining(), images(3)
    noise = torch.rand(3, 64)
    together = model(pixel_values, noise=noise)
    alone = torch.cat([model(pixel_values[i : i + 1], noise=noise[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(together.logits, alone, rtol=0, atol=2e-5)
    decoded = (together.logits != 0).any(dim=-1)
    assert not torch.equal(decoded[0], decoded[1])


@pytest.mark.slow
@pytest.mark.parametrize("attention_mask", ["all", "masked"])
@pytest.mark.parametrize("masking", MASKING_UNITS)
def test_the_losses_are_unbiased_over_draws(masking, attention_mask):
    """With a decoder that leaves each token to itself, predictions do not depend on what else is decoded."""
    model = pretraining(masking)
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.attention.o_proj.weight.zero_()
            layer.attention.o_proj.bias.zero_()
    draws, units = 2000, MASKING_UNITS[masking]
    mask = None
    if attention_mask == "masked":
        mask = half_masked(1).clone()
        mask[0, [5, 20, 33]] = 0  # patch positions that lack some groups only
        mask = mask.expand(draws, -1)
    # One mask, and noise that differs in its last digits alone: the draws differ in what is decoded.
    noise = (parity.random_input(7, 1, units) * 256).floor() / 256 + torch.arange(units) * 2e-5
    noise = noise + torch.rand(draws, units, generator=torch.Generator().manual_seed(0)) * 1e-5
    pixel_values = images(1).expand(draws, -1, -1, -1)
    with torch.no_grad():
        partial = model(pixel_values, mask, noise=noise)
        complete = model.eval()(pixel_values[:1], None if mask is None else mask[:1], noise=noise[:1])
        assert torch.equal(partial.mask[-1], complete.mask[0])
        losses = []
        for first in range(0, draws, 50):
            part = slice(first, first + 50)
            model.train()
            output = model(pixel_values[part], None if mask is None else mask[part], noise=noise[part])
            losses.append(torch.stack([output.token_loss, output.spectral_loss]))
    losses = torch.stack(losses)
    expected = torch.stack([complete.token_loss, complete.spectral_loss])
    standard_error = losses.std(dim=0) / len(losses) ** 0.5
    assert (losses.std(dim=0) > 1e-3 * expected).all()  # the draws do differ
    assert ((losses.mean(dim=0) - expected).abs() < 4 * standard_error).all()


@pytest.mark.slow
def test_a_quarter_of_the_patch_positions_halves_the_arithmetic_of_base():
    flops = {}
    for ratio in (1.0, 0.5, 0.25):
        with torch.device("meta"), no_init_weights():
            model = SpectralGPTForPreTraining(SpectralGPTConfig.from_preset("base", decode_ratio=ratio)).train()
            with FlopCounterMode(display=False) as counter:
                model(torch.rand(1, 12, 128, 128)).loss.backward()
        flops[ratio] = counter.get_total_flops()
    assert flops[0.5] / flops[1.0] == pytest.approx(0.69, abs=0.02)
    assert flops[0.25] / flops[1.0] == pytest.approx(0.53, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
def test_it_compiles_to_one_graph(attention_mask):
    torch._dynamo.reset()
    model = pretraining()
    inputs = {"pixel_values": images(), "noise": torch.rand(2, 64), "attention_mask": attention_mask}
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, model(**inputs).loss, rtol=0, atol=2e-5)


def test_every_parameter_gets_a_finite_gradient():
    model = pretraining()
    output = model(images(), half_masked(), noise=torch.rand(2, 64))
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
