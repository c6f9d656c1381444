"""Segmentation and change detection: parity, any size, missing data, loss, and what every model class must stand."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation, Trainer, TrainingArguments
from transformers.initialization import no_init_weights

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
)
from spectralgpt_hf.conversion import reference
from spectralgpt_hf.conversion.state_dict import to_original
from spectralgpt_hf.modeling.modeling_spectralgpt import label_weights
from tests import parity


DENSE = [SpectralGPTForSemanticSegmentation, SpectralGPTForChangeDetection]
GRID = (4, 4, 4)


def small_model(cls=SpectralGPTForSemanticSegmentation, **overrides):
    """A network that runs in milliseconds: 4 x 4 patch positions of 4 groups, with random biases and norms."""
    labels = {} if cls is SpectralGPTForChangeDetection else {"num_labels": 5}
    torch.manual_seed(0)
    model = cls(parity.config("toy", **{"decode_hidden_size": 16, **labels, **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(batch_size=2, height=32, width=32, num_channels=12, seed=0):
    return torch.rand(batch_size, num_channels, height, width, generator=torch.Generator().manual_seed(seed))


def arguments(cls, labels=None, **sizes):
    inputs = {"pixel_values": images(**sizes)}
    if cls is SpectralGPTForChangeDetection:
        inputs["pixel_values_after"] = images(**sizes, seed=1)
    return inputs if labels is None else {**inputs, "labels": labels}


def random_labels(num_labels=2, batch_size=2, size=32):
    return torch.randint(num_labels, (batch_size, size, size), generator=torch.Generator().manual_seed(2))


def right_half_missing(batch_size=2):
    return torch.tensor([1, 1, 0, 0]).repeat(16).expand(batch_size, -1)


# The released implementation, at the size of Base. `conversion/test_convert.py` compares narrow networks of both tasks
# with our reference of its mathematics in a second.


def released(cls, case, **overrides):
    with torch.device("meta"), no_init_weights():
        model = cls(parity.config("base_128", **overrides)).eval()
    model.load_state_dict(parity.checkpoint(case), assign=True)
    return model


@pytest.mark.slow
def test_segmentation_equals_the_released_implementation():
    model = released(SpectralGPTForSemanticSegmentation, "segmentation_base_128", num_labels=13)
    with torch.no_grad():
        logits = model(parity.random_input(300, 1, 12, 128, 128)).logits
    assert parity.relative_error(logits, parity.expected("segmentation_base_128")["logits"]) < 1e-4


@pytest.mark.slow
def test_change_detection_equals_the_released_implementation():
    model = released(SpectralGPTForChangeDetection, "change_detection_base_128")
    before, after = (parity.random_input(seed, 1, 12, 128, 128) for seed in (400, 401))
    with torch.no_grad():
        logits = model(before, after).logits
    expected = parity.expected("change_detection_base_128")["log_probabilities"]
    assert parity.relative_error(logits.log_softmax(dim=1), expected) < 1e-4


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (1, 1), (8, 1)])
def test_the_head_and_its_gradient_are_those_of_the_literal_decoder(rows, columns):
    """Literal: everything resized to full resolution, concatenated, then convolved; plain transposed convolutions."""
    model = small_model().double()
    state = to_original(model.state_dict(), model.config)
    ours = torch.randn(2, 48, rows, columns, dtype=torch.float64, requires_grad=True)
    literal = ours.detach().clone().requires_grad_()
    logits, expected = model.decode_head(ours), reference.decode_map(state, literal)
    direction = torch.randn_like(expected)
    (logits * direction).sum().backward()
    (expected * direction).sum().backward()
    assert parity.relative_error(logits, expected) < 1e-8
    assert parity.relative_error(ours.grad, literal.grad) < 1e-8


# Any size


@pytest.mark.parametrize("cls", DENSE)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 40), (24, 16), (64, 32)])
def test_every_pixel_of_an_image_of_any_size_has_logits(cls, height, width):
    model = small_model(cls)
    with torch.no_grad():
        logits = model(**arguments(cls, height=height, width=width)).logits
    assert logits.shape == (2, model.config.num_labels, height, width)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("preset", "patch_size"), [("tiny", 4), ("tiny", 8), ("tiny", 16), ("base", 8), ("large", 8), ("huge", 8)]
)
def test_the_head_fits_every_preset_and_patch_size(preset, patch_size):
    config = SpectralGPTConfig.from_preset(preset, num_labels=7, patch_size=patch_size, num_hidden_layers=1)
    with torch.device("meta"):
        logits = SpectralGPTForSemanticSegmentation(config)(images(1, 64, 48).to("meta")).logits
    assert logits.shape == (1, 7, 64, 48)


def test_other_band_counts_interpolate_the_weights_of_the_groups_and_keep_their_sum():
    model = small_model()
    fusion = model.decode_head.group_fusion
    with torch.no_grad():
        assert model(images(num_channels=6)).logits.shape == (2, 5, 32, 32)
        fused = fusion(torch.ones(1, 2 * 16, 48), (2, 4, 4))
        first_only = fusion(torch.cat([torch.ones(1, 16, 48), torch.zeros(1, 16, 48)], dim=1), (2, 4, 4))
    torch.testing.assert_close(fused, (fusion.weight.sum() + fusion.bias).expand_as(fused))
    torch.testing.assert_close(first_only, (fusion.weight[0, :2].sum() + fusion.bias).expand_as(fused))


def test_the_width_of_the_head_is_free():
    widths = {16: 0, 32: 0}
    for width in widths:
        head = small_model(decode_hidden_size=width).decode_head
        assert head.classifier.in_channels == width
        widths[width] = sum(parameter.numel() for parameter in head.parameters())
    assert 3 < widths[32] / widths[16] < 4


# Tokens without data


def test_fusing_is_a_learned_weighted_sum():
    fusion = small_model().decode_head.group_fusion
    tokens = torch.randn(2, 64, 48)
    expected = torch.einsum("bghwd,g->bdhw", tokens.unflatten(1, GRID), fusion.weight[0]) + fusion.bias
    torch.testing.assert_close(fusion(tokens, GRID), expected)
    torch.testing.assert_close(fusion(tokens, GRID, torch.ones(2, 64)), expected)


def test_groups_with_data_share_the_weight_of_those_without():
    fusion = small_model().decode_head.group_fusion
    tokens = torch.randn(1, 64, 48).unflatten(1, GRID)
    mask = torch.ones(1, *GRID)
    mask[:, 1, 2, 3] = mask[:, 3, 2, 3] = 0
    with torch.no_grad():
        features = fusion(tokens.flatten(1, 3), GRID, mask.flatten(1))
        weight = fusion.weight[0]
        share = (weight[1] + weight[3]) / 2
        expected = (weight[0] + share) * tokens[0, 0, 2, 3] + (weight[2] + share) * tokens[0, 2, 2, 3] + fusion.bias
        torch.testing.assert_close(features[0, :, 2, 3], expected)
        mask[:, 1, 2, 3] = mask[:, 3, 2, 3] = 1
        complete = fusion(tokens.flatten(1, 3), GRID, mask.flatten(1))
    changed = (features != complete).any(dim=1)[0].nonzero().tolist()
    assert changed == [[2, 3]]


def test_a_patch_position_without_data_takes_the_mean_of_the_others():
    fusion = small_model().decode_head.group_fusion
    with torch.no_grad():
        features = fusion(torch.randn(2, 64, 48), GRID, right_half_missing())
    mean = features[..., :2].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(features[..., 2:], mean.expand(-1, -1, 4, 2))


@pytest.mark.parametrize("cls", DENSE)
def test_what_stands_in_tokens_without_data_reaches_neither_logits_nor_loss(cls):
    model, labels = small_model(cls), random_labels()
    clean, dirty = (arguments(cls, labels) for _ in range(2))
    for name, value in dirty.items():
        if name.startswith("pixel_values"):
            value[..., 16:] = math.nan
    masks = {name.replace("pixel_values", "attention_mask"): right_half_missing() for name in clean if name != "labels"}
    dirty["labels"] = labels.clone()
    dirty["labels"][..., 16:] = 1 - labels[..., 16:]
    first, second = model(**clean, **masks), model(**dirty, **masks)
    torch.testing.assert_close(second.logits, first.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(second.loss, first.loss, rtol=0, atol=1e-6)
    left = nn.functional.cross_entropy(first.logits[..., :16], labels[..., :16])
    torch.testing.assert_close(first.loss, left)
    second.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("cls", DENSE)
def test_an_image_without_any_data_spoils_neither_the_batch_nor_the_gradient(cls):
    model = small_model(cls)
    mask = torch.ones(2, 64)
    mask[1] = 0
    output = model(**arguments(cls, random_labels()), attention_mask=mask)
    output.loss.backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    alone = {name: value[:1] for name, value in arguments(cls).items()}
    assert parity.relative_error(output.logits[:1], model(**alone).logits) < 1e-4


# Two dates


def test_dates_are_encoded_alone_and_their_features_subtracted():
    model = small_model(SpectralGPTForChangeDetection)
    before, after = images(), images(seed=1)
    with torch.no_grad():
        fused = [
            model.decode_head.group_fusion(model.spectralgpt(date).last_layer_output, GRID) for date in (before, after)
        ]
        expected = model.decode_head(fused[0] - fused[1])
        torch.testing.assert_close(model(before, after).logits, expected, rtol=0, atol=1e-5)
        assert not torch.allclose(model(after, before).logits, expected, atol=1e-3)


def test_a_group_that_one_date_lacks_is_not_compared():
    """With an encoder that leaves each token to itself, what the other date shows there must not matter."""
    model = small_model(SpectralGPTForChangeDetection)
    with torch.no_grad():
        for layer in model.spectralgpt.layers:
            for linear in (layer.attention.o_proj, layer.mlp.fc2):
                linear.weight.zero_()
                linear.bias.zero_()
        mask = torch.ones(2, 64)
        mask[:, 16:24] = 0  # the second group of the upper half: bands 3 to 5
        before, after = images(), images(seed=1)
        other = after.clone()
        other[:, 3:6, :16] += 1
        first_lacks = [model(before, date, attention_mask=mask).logits for date in (after, other)]
        second_lacks = [model(date, before, attention_mask_after=mask).logits for date in (after, other)]
        neither = [model(before, date).logits for date in (after, other)]
    assert torch.equal(*first_lacks)
    assert torch.equal(*second_lacks)
    assert not torch.allclose(*neither, atol=1e-3)


def test_dates_that_do_not_fit_and_more_than_two_classes_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 12, 32, 32\) and \(1, 12, 32, 32\)"):
        small_model(SpectralGPTForChangeDetection)(images(), images(1))
    with pytest.raises(ValueError, match=r"`num_labels` must be 2 \(unchanged, changed\), got 3"):
        SpectralGPTForChangeDetection(parity.config("toy", num_labels=3))


# The loss


@pytest.mark.parametrize("class_weights", [None, [0.1, 1, 2.5, 0, 4]])
@pytest.mark.parametrize("ignore_index", [255, -100])
def test_the_loss_is_weighted_cross_entropy_without_ignored_pixels(class_weights, ignore_index):
    model = small_model(class_weights=class_weights, semantic_loss_ignore_index=ignore_index)
    labels = random_labels(5)
    labels[:, 5:20, 7:] = ignore_index
    output = model(images(), labels=labels)
    weight = None if class_weights is None else torch.tensor(class_weights)
    expected = nn.functional.cross_entropy(output.logits, labels, weight, ignore_index=ignore_index)
    torch.testing.assert_close(output.loss, expected)


def test_a_batch_of_ignored_pixels_has_no_loss_and_no_gradient():
    model = small_model()
    loss = model(images(), labels=torch.full((2, 32, 32), 255)).loss
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


@pytest.mark.parametrize("cls", DENSE)
@pytest.mark.parametrize("class_weights", [None, [0.3, 2.0]])
def test_parts_of_a_batch_divided_by_its_whole_weight_add_up_to_its_gradient(cls, class_weights):
    """With unequal numbers of labelled pixels, the mean of the means of the parts is not the mean of the batch."""
    model = small_model(cls, class_weights=class_weights, num_labels=2)
    labels = random_labels(2, 4)
    labels[0, 2:] = labels[2, :, 5:] = 255
    mask = torch.ones(4, 64)
    mask[1, 16:] = 0
    inputs = {**arguments(cls, labels, batch_size=4), "attention_mask": mask}
    model(**inputs).loss.backward()
    whole = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    total = label_weights(labels, model.config, mask).sum()
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: value[rows] for name, value in inputs.items()}
        model(**part, num_items_in_batch=total).loss.backward()
    parts = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert parity.relative_error(parts, whole) < 1e-4


def test_an_ignored_label_that_is_a_class_is_refused():
    with pytest.raises(ValueError, match=r"`semantic_loss_ignore_index` must not be the number of a class .* got 255"):
        small_model(num_labels=300)
    small_model(num_labels=300, semantic_loss_ignore_index=-100)


@pytest.mark.parametrize("cls", DENSE)
def test_other_bands_resize_the_weights_of_the_groups_too(cls, tmp_path):
    model = small_model(cls)
    inputs = arguments(cls, num_channels=6)
    expected = model(**inputs).logits
    model.resize_positions(32, ["B2", "B3", "B4", "B8", "B11", "B12"])
    assert model.decode_head.group_fusion.weight.shape == (1, 2)
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(cls.from_pretrained(tmp_path)(**inputs).logits, expected, rtol=0, atol=1e-5)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"`labels` must have shape \(2, 32, 32\), got \(2, 16, 16\)"):
        small_model()(images(), labels=random_labels(size=16))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"class_weights": [1, 2, 3]}, r"`class_weights` must be a list of 2 weights \(`num_labels`, 2 or more\)"),
        ({"class_weights": [1, -1]}, "`class_weights` must be .* zero or more, or None, got"),
        ({"decode_hidden_size": 40}, "`decode_hidden_size` must be a multiple of 16"),
        ({"decode_dropout": 1.0}, r"`decode_dropout` must be in \[0, 1\)"),
    ],
)
def test_an_impossible_head_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpectralGPTConfig(**wrong)


def test_accumulated_steps_train_like_the_whole_batch(tmp_path):
    samples = [{"pixel_values": images(1, seed=i)[0], "labels": random_labels(5, 4)[i]} for i in range(4)]
    biases = []
    for batch_size in (4, 1):
        model = small_model(decode_dropout=0.0)
        settings = TrainingArguments(
            output_dir=tmp_path,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=4 // batch_size,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, settings, train_dataset=samples).train()
        biases.append(model.decode_head.classifier.bias.detach())
    torch.testing.assert_close(biases[1], biases[0], rtol=1e-4, atol=1e-5)


# What every class must stand


@pytest.mark.parametrize("cls", DENSE)
def test_every_parameter_gets_a_gradient_also_after_loading(cls, tmp_path):
    """Distributed training stops at parameters without. The encoder's final LayerNorm, not used here, must be none."""
    small_model(cls).save_pretrained(tmp_path)
    for model in (small_model(cls), cls.from_pretrained(tmp_path)):
        model.train()
        model(**arguments(cls, random_labels())).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("cls", DENSE)
def test_attention_implementations_agree(cls):
    model = small_model(cls)
    inputs = {**arguments(cls), "attention_mask": right_half_missing()}
    logits = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        logits[implementation] = model(**inputs).logits
    assert parity.relative_error(logits["eager"], logits["sdpa"]) < 1e-4


@pytest.mark.parametrize("cls", DENSE)
def test_gradient_checkpointing_changes_no_gradient(cls):
    gradients = []
    for checkpointing in (False, True):
        model = small_model(cls, decode_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**arguments(cls, random_labels())).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cls", DENSE)
def test_the_model_compiles_into_one_graph(cls):
    model = small_model(cls, class_weights=[1.0, 2.0], num_labels=2, num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = {**arguments(cls, random_labels()), "attention_mask": right_half_missing()}
    eager, output = model(**inputs), compiled(**inputs)
    assert parity.relative_error(output.logits, eager.logits) < 1e-4
    assert parity.relative_error(output.loss, eager.loss) < 1e-4
    output.loss.backward()
    gradient = model.decode_head.classifier.weight.grad.clone()
    model.zero_grad()
    model(**inputs).loss.backward()
    assert parity.relative_error(model.decode_head.classifier.weight.grad, gradient) < 1e-3


@pytest.mark.parametrize("cls", DENSE)
def test_bfloat16_follows_float32(cls):
    model, inputs = small_model(cls), {**arguments(cls, random_labels()), "attention_mask": right_half_missing()}
    expected = model(**inputs)
    model.bfloat16()
    for name, value in inputs.items():
        inputs[name] = value.bfloat16() if name.startswith("pixel_values") else value
    output = model(**inputs)
    assert output.loss.dtype == torch.float32
    assert parity.relative_error(output.logits.float(), expected.logits) < 0.1


@pytest.mark.parametrize("cls", DENSE)
def test_hidden_states_and_attentions_are_given_on_request(cls):
    model = small_model(cls)
    model.set_attn_implementation("eager")
    output = model(**arguments(cls), output_hidden_states=True, output_attentions=True)
    batch_size = 4 if cls is SpectralGPTForChangeDetection else 2  # both dates
    assert [state.shape for state in output.hidden_states] == [(batch_size, 64, 48)] * 4
    assert [weights.shape for weights in output.attentions] == [(batch_size, 4, 64, 64)] * 3


@pytest.mark.parametrize(
    ("cls", "auto_class"), zip(DENSE, (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation))
)
def test_a_saved_model_loads_through_its_auto_class_with_the_same_logits(cls, auto_class, tmp_path):
    model = small_model(cls)
    model.save_pretrained(tmp_path)
    reloaded = auto_class.from_pretrained(tmp_path)
    assert type(reloaded) is cls
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in reloaded.state_dict().items())
    assert parity.relative_error(reloaded(**arguments(cls)).logits, model(**arguments(cls)).logits) < 1e-4


@pytest.mark.parametrize("cls", DENSE)
def test_a_pretrained_encoder_gets_a_fresh_head_that_starts_from_the_mean_of_the_groups(cls, tmp_path):
    pretrained = SpectralGPTForPreTraining(parity.config("toy", decode_hidden_size=16))
    pretrained.save_pretrained(tmp_path)
    model, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    head = dict(model.decode_head.named_parameters(prefix="decode_head"))
    assert set(report["missing_keys"]) == head.keys()
    assert not report["unexpected_keys"]
    assert torch.equal(
        model.spectralgpt(images()).last_layer_output, pretrained.spectralgpt(images()).last_layer_output
    )
    assert (head["decode_head.group_fusion.weight"] == 0.25).all()
    for name, parameter in head.items():
        if parameter.ndim > 1:
            assert 0 < parameter.abs().max() < 1, name
        else:
            assert ((parameter == 0) | (parameter == 1)).all(), name
