import copy
import logging

import pytest
import torch
from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTModel,
)
from spectralgpt_hf.modeling.modeling_spectralgpt import patchify, unpatchify
from tests import parity
from tests.modeling.networks import half_masked, images, small_config, small_model


# The released implementation, and the paper's table


@pytest.mark.parametrize(("case", "seed", "batch_size"), [("toy", 100, 2), ("base_128", 200, 1), ("base_96", 210, 1)])
def test_outputs_equal_those_of_the_released_implementation(case, seed, batch_size):
    config = parity.config(case)
    model = SpectralGPTForPreTraining(config).eval()
    model.load_state_dict(parity.checkpoint(case))
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
    with torch.device("meta"):
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
@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
def test_compiles_to_one_graph_forward_and_backward(backend, attention_mask):
    torch._dynamo.reset()
    model = small_model(SpectralGPTForPreTraining).train()
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


# Saving and loading


def test_auto_classes_know_the_model(tmp_path):
    small_model(SpectralGPTForPreTraining).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SpectralGPTConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is SpectralGPTModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is SpectralGPTForPreTraining
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is SpectralGPTForImageClassification
    assert type(AutoBackbone.from_config(small_config())) is SpectralGPTBackbone


@pytest.mark.parametrize(
    "cls", [SpectralGPTModel, SpectralGPTForPreTraining, SpectralGPTForImageClassification, SpectralGPTBackbone]
)
def test_a_saved_model_gives_the_same_output(cls, tmp_path):
    model = small_model(cls)
    model.save_pretrained(tmp_path)
    reloaded = cls.from_pretrained(tmp_path)
    arguments = {"noise": torch.rand(2, 64)} if cls is SpectralGPTForPreTraining else {}
    before, after = model(images(), **arguments), reloaded(images(), **arguments)
    for first, second in zip(before.to_tuple(), after.to_tuple()):
        first, second = (first, second) if torch.is_tensor(first) else (first[0], second[0])
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def loading_messages(load, caplog) -> str:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING):
            load()
    finally:
        logger.removeHandler(caplog.handler)
    return caplog.text


def test_an_encoder_from_a_pretraining_checkpoint_loads_without_a_warning(tmp_path, caplog):
    pretrained = small_model(SpectralGPTForPreTraining)
    pretrained.save_pretrained(tmp_path)
    assert loading_messages(lambda: SpectralGPTModel.from_pretrained(tmp_path), caplog) == ""
    encoder = SpectralGPTModel.from_pretrained(tmp_path)
    expected = pretrained.spectralgpt(images()).pooler_output
    torch.testing.assert_close(encoder(images()).pooler_output, expected, rtol=0, atol=1e-6)


def test_missing_and_unexpected_keys_are_named(tmp_path, caplog):
    pretrained = small_model(SpectralGPTForPreTraining)
    weights = pretrained.state_dict()
    weights["spectralgpt.layers.0.mlp.fc9.weight"] = weights.pop("spectralgpt.layers.0.mlp.fc1.weight")
    pretrained.save_pretrained(tmp_path, state_dict=weights)
    messages = loading_messages(lambda: SpectralGPTModel.from_pretrained(tmp_path), caplog)
    assert "layers.0.mlp.fc1.weight" in messages
    assert "layers.0.mlp.fc9.weight" in messages
    assert "decoder" not in messages


def test_loading_leaves_no_value_uninitialised(tmp_path):
    """`from_pretrained` builds on the meta device: what the checkpoint lacks must come out as `_init_weights` says."""
    small_model().save_pretrained(tmp_path)
    model = SpectralGPTForPreTraining.from_pretrained(tmp_path)
    for name, parameter in model.decoder.named_parameters():
        assert parameter.device.type == "cpu"
        if name.endswith("layernorm.weight") or ("layernorm_" in name and name.endswith("weight")):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif name == "mask_token":
            assert 0.005 < parameter.std() < 0.04, name
        elif "position" in name:
            assert 0.5 < parameter.square().mean().sqrt() < 0.9, name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.4 * bound < parameter.std() < 0.8 * bound, name
            assert parameter.abs().max() <= bound, name
