import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import TrainerControl, TrainerState, TrainingArguments

from spectralgpt_hf import SpectralGPTForChangeDetection, SpectralGPTForSemanticSegmentation
from spectralgpt_hf.training.starting import FrozenStart, labelled_values, start_from_features, start_from_pixels
from tests.modeling.networks import half_masked, images, small_model
from tests.training.test_few_shot import bright_and_dark, new_model


@pytest.mark.parametrize("pixel_skip", [False, True])
def test_a_classifier_that_starts_from_its_features_knows_what_it_was_fitted_to(pixel_skip):
    pixels, labels = bright_and_dark(16)
    model = new_model(pixel_skip=pixel_skip).eval()
    with torch.no_grad():
        features = model.classifier_input(model.spectralgpt(pixels).pooler_output, pixels)
    before = {name: weight.clone() for name, weight in model.spectralgpt.state_dict().items()}
    start_from_features(model, features, labels)
    with torch.no_grad():
        assert (model(pixels).logits.argmax(1) == labels).all()
    assert all(torch.equal(weight, before[name]) for name, weight in model.spectralgpt.state_dict().items())


def test_uninformative_pooled_features_count_less_than_the_statistics_beside_them():
    torch.manual_seed(0)
    model = new_model(pixel_skip=True)
    hidden, inputs = model.config.hidden_size, model.classifier.in_features
    labels = torch.arange(40) % 2
    features = torch.randn(40, inputs)
    features[:, hidden:] += labels[:, None]
    start_from_features(model, features, labels)
    pooled, statistics = model.classifier.weight.detach().abs().split([hidden, inputs - hidden], dim=1)
    assert pooled.mean() < 0.1 * statistics.mean()


def test_a_segmentation_model_starts_as_the_regression_of_its_pixels():
    model = small_model(SpectralGPTForSemanticSegmentation, pixel_skip=True, num_labels=3, decode_hidden_size=16)
    values = images().permute(0, 2, 3, 1).flatten(0, 2)
    labels = (2 * values[:, 3] + values[:, 7]).long()  # the classes 0, 1 and 2
    start_from_pixels(model, values, labels)
    with torch.no_grad():
        found = model(images()).logits.argmax(1).flatten()
    regression = LogisticRegression(C=1e4, max_iter=1000).fit(values, labels)
    assert (found.numpy() == regression.predict(values)).mean() > 0.98
    assert (found == labels).float().mean() > 0.95


def test_a_frozen_start_lets_only_the_head_learn_at_first(tmp_path):
    model, arguments = new_model(), TrainingArguments(str(tmp_path))
    start = FrozenStart(model, 0.5)
    learning = []
    for step in range(4):
        start.on_step_begin(arguments, TrainerState(global_step=step, max_steps=4), TrainerControl())
        learning.append([parameter.requires_grad for parameter in model.spectralgpt.parameters()])
        assert all(parameter.requires_grad for parameter in model.classifier.parameters())
    assert [any(found) for found in learning] == [False, False, True, True]
    assert all(learning[-1])


def test_a_change_model_starts_as_the_regression_of_both_dates_where_both_have_data():
    model = small_model(SpectralGPTForChangeDetection, pixel_skip=True, num_labels=2, decode_hidden_size=16)
    before, after = images(), images().flip(0)
    labels = (after[:, 3] > before[:, 3]).long()
    mask = half_masked()
    samples = [
        {"pixel_values": first, "pixel_values_after": second, "labels": changed, "attention_mask_after": tokens}
        for first, second, changed, tokens in zip(before, after, labels, mask)
    ]
    values, found = labelled_values(model, samples)
    bands = model.config.num_channels
    assert values.shape[1] == 2 * bands
    seen = values[values.all(1)]  # without the groups that one date lacks
    assert torch.equal(found[values.all(1)] == 1, seen[:, bands + 3] > seen[:, 3])
    start_from_pixels(model, torch.cat([before, after], 1).permute(0, 2, 3, 1).flatten(0, 2), labels.flatten())
    with torch.no_grad():
        assert (model(before, after).logits.argmax(1) == labels).float().mean() > 0.95
