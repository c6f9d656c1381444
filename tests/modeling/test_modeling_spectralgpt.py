"""The model: parity with the released implementation, tokens, positions, equivalent computations and read-outs."""

import copy

import pytest
import torch
from torch import nn
from transformers.initialization import no_init_weights

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForPreTraining,
)
from spectralgpt_hf.modeling.modeling_spectralgpt import patchify, unpatchify
from tests import parity
from tests.modeling.networks import half_masked, images, small_config, small_model


# The released implementation, and the paper's table


@pytest.mark.parametrize(
    ("case", "seed", "batch_size"),
    [
        ("toy", 100, 2),
        pytest.param("base_128", 200, 1, marks=pytest.mark.slow),
        pytest.param("base_96", 210, 1, marks=pytest.mark.slow),
    ],
)
def test_outputs_equal_those_of_the_released_implementation(case, seed, batch_size):
    config = parity.config(case)
    with torch.device("meta"), no_init_weights():
        model = SpectralGPTForPreTraining(config).eval()
    model.load_state_dict(parity.checkpoint(case), assign=True)
    rows = config.image_size // 8
    pixel_values = parity.random_input(seed, batch_size, 12, config.image_size, config.image_size)
    noise = parity.random_input(seed + 1, batch_size, 4 * rows * rows)
    expected = parity.expected("toy_pretrain" if case == "toy" else case)
    stride = 1 if case == "toy" else 16  # the larger cases store every 16th token

    with torch.no_grad():
        output = model(pixel_values, noise=noise)
        ids_keep, _, _ = model.sample_mask((4, rows, rows), noise)
        visible = model.spectralgpt(pixel_values, ids_keep=ids_keep).last_hidden_state
        everything = model.spectralgpt(pixel_values).last_hidden_state

    assert torch.equal(output.mask, expected["mask"])
    assert parity.relative_error(output.loss, expected["loss"].squeeze()) < 1e-4
    assert parity.relative_error(output.logits[:, ::stride], expected["pred"]) < 1e-4
    assert parity.relative_error(visible, expected["encoded_visible"]) < 1e-4
    assert parity.relative_error(everything[:, ::stride], expected["encoded_all"]) < 1e-4


@pytest.mark.parametrize(
    ("preset", "encoder", "with_decoder"),
    [("base", 85_403_904, 98_640_320), ("large", 302_775_296, 316_142_784), ("huge", 630_260_480, 643_759_040)],
)
def test_presets_have_the_published_number_of_parameters(preset, encoder, with_decoder):
    with torch.device("meta"), no_init_weights():
        model = SpectralGPTForPreTraining(SpectralGPTConfig.from_preset(preset))
    assert model.spectralgpt.num_parameters() == encoder
    assert model.num_parameters() == with_decoder


# Tokens


def test_tokens_are_spectral_major_and_hold_bands_then_rows_then_columns():
    config = small_config()
    pixel_values = images(1)
    tokens = patchify(pixel_values, config)
    group, row, column = 2, 1, 3
    expected = pixel_values[0, 3 * group : 3 * group + 3, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
    assert torch.equal(tokens[0, group * 16 + row * 4 + column], expected)
    assert torch.equal(unpatchify(tokens, 32, 32, config), pixel_values)


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.rand(1, 13, 32, 32), "number of bands must be a multiple of 3 .* got 13"),
        (torch.rand(1, 12, 30, 32), "Height and width must be multiples of 8 px .* got 30 x 32"),
        (torch.rand(12, 32, 32), r"must have 4 dimensions .* got shape \(12, 32, 32\)"),
        (torch.ones(1, 12, 32, 32, dtype=torch.int16), "normalised floats, got torch.int16"),
    ],
)
def test_input_that_does_not_divide_into_tokens_is_refused(pixel_values, message):
    for model in (small_model(), small_model(SpectralGPTForPreTraining)):
        with pytest.raises(ValueError, match=message):
            model(pixel_values)


def test_any_multiple_of_the_patch_size_and_of_three_bands_is_accepted():
    model = small_model(SpectralGPTForPreTraining)
    output = model(torch.rand(2, 6, 24, 40))
    assert output.logits.shape == (2, 2 * 3 * 5, 192)
    assert torch.isfinite(output.loss)


def test_positions_of_another_size_are_the_interpolated_ones():
    model = small_model()
    pixel_values = images(1, size=24)
    with torch.no_grad():
        output = model(pixel_values).last_hidden_state

        by_hand = small_model(image_size=24)
        weights = copy.deepcopy(model.state_dict())
        name = "embeddings.position_embeddings.spatial_position_embeddings"
        grid = weights[name].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
        weights[name] = grid.permute(0, 2, 3, 1).reshape(1, 9, 48)
        by_hand.load_state_dict(weights)
        expected = by_hand(pixel_values).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-5)


def test_positions_of_another_number_of_bands_are_interpolated_linearly():
    positions = small_model().embeddings.position_embeddings
    spectral = positions.spectral_position_embeddings[0]
    interpolated = positions(2, 4, 4).reshape(2, 16, 48) - positions.spatial_position_embeddings
    torch.testing.assert_close(interpolated[0, 0], (spectral[0] + spectral[1]) / 2, rtol=0, atol=1e-6)


def test_resizing_the_positions_gives_what_interpolating_them_on_the_fly_gave(tmp_path):
    model = small_model(SpectralGPTForPreTraining)
    pixel_values, noise = images(size=48), torch.rand(2, 144)
    with torch.no_grad():
        expected = model(pixel_values, noise=noise).logits
        model.resize_positions(48)
        model.save_pretrained(tmp_path)
        reloaded = SpectralGPTForPreTraining.from_pretrained(tmp_path)
        torch.testing.assert_close(reloaded(pixel_values, noise=noise).logits, expected)
    assert reloaded.config.image_size == 48


@pytest.mark.parametrize(
    ("image_size", "bands"), [(50, None), (48, ["B2", "B3"]), (48, ["B2", "B3", "B44"]), (50, ["B2", "B3", "B4"])]
)
def test_refused_positions_leave_the_model_as_it_was(image_size, bands):
    model = small_model(SpectralGPTForPreTraining)
    config, weights = model.config.to_dict(), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"`image_size` must be|`num_channels` must be|B44"):
        model.resize_positions(image_size, bands)
    assert model.config.to_dict() == config
    assert model.decoder.config.image_size == 32
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_resized_positions_stay_frozen():
    model = small_model()
    model.requires_grad_(False)
    model.resize_positions(48, ["B2", "B3", "B4"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.bands == ["B2", "B3", "B4"]
    assert model(torch.rand(1, 3, 48, 48)).last_hidden_state.shape == (1, 36, 48)


def test_positions_start_as_waves_in_which_neighbours_are_alike():
    positions = small_model().embeddings.position_embeddings.spatial_position_embeddings[0].reshape(4, 4, 48)
    similarity = nn.functional.cosine_similarity(positions[0, 0], positions, dim=-1)
    assert (similarity[0].diff() < 0).all()
    assert (similarity[:, 0].diff() < 0).all()
    torch.testing.assert_close(similarity, similarity.T)


# One result, however it is computed


@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
def test_eager_and_sdpa_attention_agree(attention_mask):
    model = small_model(SpectralGPTForPreTraining)
    pixel_values, noise = images(), torch.rand(2, 64)
    outputs = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        outputs.append(model(pixel_values, noise=noise, attention_mask=attention_mask))
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=0, atol=2e-5)
    valid = slice(None) if attention_mask is None else attention_mask[0].bool()
    torch.testing.assert_close(outputs[0].logits[:, valid], outputs[1].logits[:, valid], rtol=0, atol=2e-5)


def test_attention_implementation_reaches_the_decoder():
    model = small_model(SpectralGPTForPreTraining)
    model.set_attn_implementation("eager")
    assert model.decoder.layers[0].attention.config._attn_implementation == "eager"


def test_gradient_checkpointing_changes_neither_loss_nor_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = small_model(SpectralGPTForPreTraining).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(images(), noise=parity.random_input(0, 2, 64)).loss
        loss.backward()
        gradients.append([loss.detach()] + [parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_an_image_in_a_batch_gives_what_it_gives_alone():
    model = small_model(SpectralGPTForPreTraining)
    pixel_values, noise = images(3), torch.rand(3, 64)
    with torch.no_grad():
        together = model(pixel_values, noise=noise).logits
        alone = torch.cat([model(pixel_values[i : i + 1], noise=noise[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=["aot_eager", "inductor"]
)
@pytest.mark.parametrize(
    "attention_mask", [None, pytest.param(half_masked(), marks=pytest.mark.slow)], ids=["all", "masked"]
)
def test_compiles_to_one_graph_forward_and_backward(backend, attention_mask):
    torch._dynamo.reset()
    model = small_model(SpectralGPTForPreTraining, num_hidden_layers=2, decoder_num_hidden_layers=1).train()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    noise = torch.rand(2, 64)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (0, 1):
            model.zero_grad()
            loss = compiled(images(seed=seed), noise=noise, attention_mask=attention_mask).loss
            loss.backward()
            gradient = model.spectralgpt.embeddings.patch_embeddings.weight.grad.clone()
            model.zero_grad()
            expected = model(images(seed=seed), noise=noise, attention_mask=attention_mask).loss
            expected.backward()
            torch.testing.assert_close(loss, expected, rtol=0, atol=2e-5)
            torch.testing.assert_close(
                gradient, model.spectralgpt.embeddings.patch_embeddings.weight.grad, rtol=0, atol=2e-5
            )


def test_stochastic_depth_rises_linearly_and_acts_in_training_only():
    model = small_model(drop_path_rate=0.2)
    assert [layer.drop_path.drop_prob for layer in model.layers] == pytest.approx([0.0, 0.1, 0.2])
    pixel_values = images()
    assert torch.equal(model(pixel_values).pooler_output, small_model()(pixel_values).pooler_output)
    model.train()
    assert not torch.equal(model(pixel_values).pooler_output, model(pixel_values).pooler_output)


# Read-outs


def test_the_pooled_output_is_the_mean_of_the_last_layer_then_the_final_layernorm():
    model = small_model()
    output = model(images(), output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(output.hidden_states[-1], output.last_layer_output)
    expected = model.layernorm(output.hidden_states[-1].mean(dim=1))
    torch.testing.assert_close(output.pooler_output, expected)


def test_the_feature_map_averages_the_groups_with_data():
    model = small_model()
    tokens = torch.rand(1, 64, 48)
    feature_map = model.feature_map(tokens, 32, 32)
    torch.testing.assert_close(feature_map[0, :, 1, 2], tokens[0, [6, 22, 38, 54]].mean(0))
    mask = torch.ones(1, 64, dtype=torch.long)
    mask[0, [6, 22, 38]] = 0
    torch.testing.assert_close(model.feature_map(tokens, 32, 32, mask)[0, :, 1, 2], tokens[0, 54])
