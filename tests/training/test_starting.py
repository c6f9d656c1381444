import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from spectralgpt_hf.training.starting import FrozenStart, start_from_probe
from tests.training.test_few_shot import bright_and_dark, new_model


def test_a_classifier_that_starts_from_the_probe_knows_what_it_was_fitted_to():
    images, labels = bright_and_dark(16)
    model = new_model().eval()
    with torch.no_grad():
        features = model.spectralgpt(images).pooler_output
    before = model.spectralgpt.state_dict()
    start_from_probe(model, features, labels, 1e-3)
    with torch.no_grad():
        assert (model(images).logits.argmax(1) == labels).all()
    assert all(torch.equal(weight, before[name]) for name, weight in model.spectralgpt.state_dict().items())


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
