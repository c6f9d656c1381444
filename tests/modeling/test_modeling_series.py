"""Series of several dates: one set of tokens of all dates, by their mean or by attention."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from tests.modeling.networks import half_masked, images, small_config, small_model


FUSIONS = ("mean", "attention")
HEADS = (SpectralGPTForImageClassification, SpectralGPTForSemanticSegmentation)
DATES = torch.tensor([[16600, 16700, 16800], [16650, 16750, 16900]])


def series(num_dates: int = 3, batch_size: int = 2) -> torch.Tensor:
    return torch.stack([images(batch_size, seed=number) for number in range(num_dates)], dim=1)


def model_of(model_class=SpectralGPTModel, temporal_fusion: str = "attention", **options):
    """A model whose query is as if trained, so that dates differ in weight."""
    model = small_model(model_class, temporal_fusion=temporal_fusion, decode_hidden_size=16, **options)
    if temporal_fusion == "attention":
        fusion = getattr(model, "spectralgpt", model).temporal_fusion
        fusion.query.data = 2 * torch.randn(fusion.query.shape, generator=torch.Generator().manual_seed(1))
    return model


def main_output(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        output = model(*args, **kwargs)
    return output.pooler_output if isinstance(model, SpectralGPTModel) else output.logits


@pytest.mark.parametrize("attention_mask", [None, half_masked()], ids=["all", "masked"])
@pytest.mark.parametrize("temporal_fusion", FUSIONS)
def test_a_series_of_one_date_equals_the_single_image_bit_for_bit(temporal_fusion, attention_mask):
    model, plain = model_of(temporal_fusion=temporal_fusion), small_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    mask = None if attention_mask is None else attention_mask[:, None]
    with torch.no_grad():
        expected = plain(images(), attention_mask)
        for found in (model(images(), attention_mask), model(images()[:, None], mask, dates=DATES[:, :1])):
            assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
            assert torch.equal(found.pooler_output, expected.pooler_output)
            assert torch.equal(found.last_layer_output, expected.last_layer_output)


@pytest.mark.parametrize("model_class", HEADS)
def test_the_heads_take_a_series_of_one_date_as_the_image(model_class):
    model = model_of(model_class, "mean", num_labels=3)
    assert torch.equal(main_output(model, images()[:, None]), main_output(model, images()))


def test_only_attention_over_dates_has_parameters_of_its_own():
    names = set(small_model().state_dict())
    added = set(model_of().state_dict()) - names
    assert added
    assert all(name.startswith("temporal_fusion.") for name in added)
    assert set(model_of(temporal_fusion="mean").state_dict()) == names


@pytest.mark.parametrize("temporal_fusion", FUSIONS)
@pytest.mark.parametrize("model_class", [SpectralGPTModel, *HEADS])
def test_a_date_without_data_changes_nothing(model_class, temporal_fusion):
    options = {} if model_class is SpectralGPTModel else {"num_labels": 3}
    model = model_of(model_class, temporal_fusion, **options)
    pixel_values, mask = series(), torch.stack([half_masked(), half_masked().flip(-1), torch.ones(2, 64)], dim=1)
    expected = main_output(model, pixel_values, mask, dates=DATES)
    empty = torch.full_like(pixel_values[:, :1], torch.nan)
    longer = torch.cat([pixel_values[:, :1], empty, pixel_values[:, 1:]], dim=1)
    longer_mask = torch.cat([mask[:, :1], torch.zeros(2, 1, 64), mask[:, 1:]], dim=1)
    longer_dates = torch.cat([DATES[:, :1], DATES[:, :1] + 5, DATES[:, 1:]], dim=1)
    found = main_output(model, longer, longer_mask, dates=longer_dates)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temporal_fusion", FUSIONS)
def test_the_order_of_the_dates_does_not_matter(temporal_fusion):
    model, order = model_of(temporal_fusion=temporal_fusion), [2, 0, 1]
    mask = torch.stack([half_masked(), torch.ones(2, 64), torch.ones(2, 64)], dim=1)
    expected = main_output(model, series(), mask, dates=DATES)
    found = main_output(model, series()[:, order], mask[:, order], dates=DATES[:, order])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temporal_fusion", FUSIONS)
def test_a_token_takes_the_dates_at_which_it_has_data(temporal_fusion):
    model = model_of(temporal_fusion=temporal_fusion)
    mask = torch.stack([half_masked(), 1 - half_masked()], dim=1)
    with torch.no_grad():
        found = model(series(2), mask, dates=DATES[:, :2]).last_hidden_state
        alone = [model(series(2)[:, date], mask[:, date]).last_hidden_state for date in (0, 1)]
    expected = torch.where(half_masked()[..., None] == 1, alone[0], alone[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_mean_is_that_of_the_tokens_of_each_date():
    model = small_model()
    with torch.no_grad():
        found = model(series()).last_layer_output
        alone = [model(series()[:, date]).last_layer_output for date in range(3)]
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=0, atol=1e-5)


def test_attention_weighs_dates_by_their_content_and_their_day_of_the_year():
    model = model_of()
    expected = main_output(model, series(), dates=DATES)
    assert not torch.allclose(expected, main_output(model, series(), dates=DATES + 60), atol=1e-5)
    a_century = 36524.25  # days, after which the calendar is the same
    for dates in (DATES.float(), DATES + a_century):
        torch.testing.assert_close(main_output(model, series(), dates=dates), expected, rtol=0, atol=1e-4)


def test_a_new_fusion_almost_averages_the_dates():
    new, mean = small_model(temporal_fusion="attention"), small_model()
    mean.load_state_dict(new.state_dict(), strict=False)
    found, expected = main_output(new, series(), dates=DATES), main_output(mean, series())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    assert not torch.equal(found, expected)


def test_attention_learns_which_date_matters():
    torch.manual_seed(0)
    model = small_model(SpectralGPTForImageClassification, temporal_fusion="attention", num_labels=2).train()
    model.spectralgpt.requires_grad_(False)
    model.spectralgpt.temporal_fusion.requires_grad_(True)
    labels = torch.tensor([0, 1] * 8)
    pixel_values = torch.rand(16, 3, 12, 32, 32)
    pixel_values[:, 1] = labels.view(-1, 1, 1, 1) * torch.linspace(0, 1, 32)  # the others are noise
    dates = torch.tensor([[10, 100, 200]]).expand(16, -1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(pixel_values, labels=labels, dates=dates).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    fusion = model.spectralgpt.temporal_fusion
    assert fusion.query.grad.abs().max() > 0
    keys = fusion.date_proj(fusion.day_of_year_waves(dates[:1])).unflatten(-1, (4, 8))
    weights = (keys * fusion.query).sum(-1).mul(8**-0.5).softmax(1)[0].mean(-1)
    assert weights.argmax() == 1


@pytest.mark.parametrize("temporal_fusion", FUSIONS)
@pytest.mark.parametrize("model_class", HEADS)
def test_gradient_checkpointing_of_a_series_changes_no_gradient(model_class, temporal_fusion):
    labels = torch.tensor([0, 2]) if model_class is HEADS[0] else torch.ones(2, 32, 32, dtype=torch.long)
    gradients = []
    for checkpointing in (False, True):
        model = model_of(model_class, temporal_fusion, num_labels=3, decode_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(series(), labels=labels, dates=DATES).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)


def test_single_images_leave_no_parameter_of_the_fusion_without_a_gradient():
    model = model_of(SpectralGPTForPreTraining).train()
    model(images()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("temporal_fusion", "num_dates", "masked"), [("mean", 3, True), ("attention", 3, True), ("mean", 1, False)]
)
def test_a_series_compiles_to_one_graph(temporal_fusion, num_dates, masked):
    torch._dynamo.reset()
    model = model_of(SpectralGPTForSemanticSegmentation, temporal_fusion, num_labels=3, num_hidden_layers=1).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.stack([half_masked()] * num_dates, dim=1) if masked else None
    given = {"attention_mask": mask, "dates": DATES[:, :num_dates], "labels": torch.ones(2, 32, 32, dtype=torch.long)}
    loss = compiled(series(num_dates), **given).loss
    loss.backward()
    torch.testing.assert_close(loss, model(series(num_dates), **given).loss, rtol=0, atol=2e-5)


def test_a_single_image_compiles_to_one_graph_with_attention_over_dates():
    torch._dynamo.reset()
    model = model_of(SpectralGPTForImageClassification, num_labels=3, num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()).logits, model(images()).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temporal_fusion", FUSIONS)
def test_half_precision_with_masked_dates_is_finite_and_keeps_its_dtype(dtype, temporal_fusion):
    model = model_of(SpectralGPTForImageClassification, temporal_fusion, num_labels=3).to(dtype)
    mask = torch.stack([half_masked(), torch.zeros(2, 64), torch.ones(2, 64)], dim=1)
    logits = main_output(model, series().to(dtype), mask, dates=DATES)
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_the_feature_map_of_a_series_takes_its_mask():
    model, mask = small_model(), torch.stack([half_masked(), half_masked()], dim=1)
    with torch.no_grad():
        tokens = model(series(2), mask).last_hidden_state
    feature_map = model.feature_map(tokens, 32, 32, mask)
    assert torch.equal(feature_map, model.feature_map(tokens, 32, 32, half_masked()))
    assert (feature_map[..., 2:] == 0).all()


def test_pixels_without_data_at_any_date_are_left_out_of_the_loss():
    model = model_of(SpectralGPTForSemanticSegmentation, "mean", num_labels=3)
    mask = torch.stack([half_masked()] * 3, dim=1)
    labels = torch.ones(2, 32, 32, dtype=torch.long)
    other = labels.clone()
    other[..., 16:] = 2  # where no date has data
    with torch.no_grad():
        losses = [model(series(), mask, labels=given).loss for given in (labels, other)]
    assert torch.equal(*losses)


def test_a_series_with_attention_over_dates_is_saved_and_loaded(tmp_path):
    model = model_of(SpectralGPTForImageClassification, num_labels=3)
    expected = main_output(model, series(), dates=DATES)
    model.save_pretrained(tmp_path)
    loaded = SpectralGPTForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(main_output(loaded, series(), dates=DATES), expected)


def test_a_pretrained_encoder_starts_a_model_with_attention_over_dates(tmp_path):
    small_model(SpectralGPTForPreTraining).save_pretrained(tmp_path)
    model = SpectralGPTForImageClassification.from_pretrained(tmp_path, temporal_fusion="attention").eval()
    assert model.spectralgpt.temporal_fusion.query.abs().max() > 0
    assert torch.isfinite(main_output(model, series(), dates=DATES)).all()


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="`temporal_fusion` must be one of 'mean', 'attention', got 'max'"):
        small_config(temporal_fusion="max")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs the `dates`"),
        ({"dates": DATES[:, :2]}, r"`dates` must have shape \(2, 3\) .* got \(2, 2\)"),
        ({"dates": DATES, "attention_mask": half_masked()}, "`attention_mask` of a series must have shape"),
        ({"dates": DATES, "attention_mask": torch.ones(2, 3, 60)}, r"must have shape \(6, 64\)"),
        ({"dates": DATES, "ids_keep": torch.zeros(2, 1, dtype=torch.long)}, "`ids_keep` is for single dates"),
    ],
)
def test_what_does_not_fit_a_series_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        model_of()(series(), **given)


def test_a_series_without_dates_is_refused():
    with pytest.raises(ValueError, match="a series of one date or more"):
        small_model()(series()[:, :0])


@pytest.mark.parametrize("model_class", [SpectralGPTForPreTraining, SpectralGPTBackbone])
def test_models_of_single_dates_refuse_a_series(model_class):
    with pytest.raises(ValueError, match="only the encoder, classification and segmentation take series"):
        small_model(model_class)(series())


def test_change_detection_takes_two_dates_only():
    model = small_model(SpectralGPTForChangeDetection, num_labels=2)
    with pytest.raises(ValueError, match="take series"):
        model(series(), series())


def test_the_trainer_of_transformers_takes_series(tmp_path):
    model = model_of(SpectralGPTForImageClassification, num_labels=2)
    before = model.spectralgpt.temporal_fusion.query.detach().clone()
    samples = [
        {
            "pixel_values": pixel_values,
            "attention_mask": torch.ones(3, 64),
            "dates": dates,
            "labels": torch.tensor(label),
        }
        for pixel_values, dates, label in zip(series(), DATES, (0, 1))
    ]
    arguments = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    result = Trainer(model, arguments, train_dataset=samples).train()
    assert result.training_loss > 0
    assert not torch.equal(model.spectralgpt.temporal_fusion.query, before)
