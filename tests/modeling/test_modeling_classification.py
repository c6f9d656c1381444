"""Classification and regression: the loss that each problem type has, and which one is inferred and recorded."""

import pytest
import torch
from torch import nn

from spectralgpt_hf import SpectralGPTForImageClassification
from tests.modeling.networks import images, small_model


INDICES = torch.tensor([2, 0])
MANY = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def classifier(num_labels=3, **overrides):
    return small_model(SpectralGPTForImageClassification, num_labels=num_labels, **overrides)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type", "loss"),
    [
        (3, INDICES, "single_label_classification", nn.functional.cross_entropy),
        (3, INDICES.int(), "single_label_classification", lambda x, y: nn.functional.cross_entropy(x, y.long())),
        (3, MANY, "multi_label_classification", nn.functional.multilabel_soft_margin_loss),
        (3, MANY.long(), "multi_label_classification", nn.functional.multilabel_soft_margin_loss),
        (1, torch.tensor([0.5, -2.0]), "regression", lambda x, y: nn.functional.mse_loss(x[:, 0], y)),
        (1, torch.tensor([[0.5], [-2.0]]), "regression", nn.functional.mse_loss),
    ],
)
def test_the_problem_type_is_inferred_from_the_labels_recorded_and_saved(
    num_labels, labels, problem_type, loss, tmp_path
):
    model = classifier(num_labels)
    output = model(images(), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))
    assert model.config.problem_type == problem_type
    model.save_pretrained(tmp_path)
    assert SpectralGPTForImageClassification.from_pretrained(tmp_path).config.problem_type == problem_type


def test_regression_of_several_values_is_their_mean_squared_error():
    model = classifier(problem_type="regression")
    output = model(images(), labels=MANY * 7)
    torch.testing.assert_close(output.loss, (output.logits - MANY * 7).square().mean())


def test_class_probabilities_are_labels_of_a_single_class():
    model = classifier(problem_type="single_label_classification")
    probabilities = torch.tensor([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    output = model(images(), labels=probabilities)
    torch.testing.assert_close(output.loss, -(probabilities * output.logits.log_softmax(-1)).sum(-1).mean())


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", MANY.long()),
        ("single_label_classification", INDICES.float()),
        ("multi_label_classification", INDICES),
        ("regression", INDICES.float()),
        (None, INDICES.float()),
        (None, torch.rand(2, 4)),
        (None, torch.rand(1, 3)),
    ],
)
def test_labels_that_do_not_belong_to_the_problem_type_are_refused(problem_type, labels):
    with pytest.raises(ValueError, match=r"`labels` of dtype .* must have shape .* got"):
        classifier(problem_type=problem_type)(images(), labels=labels)


def test_an_unknown_problem_type_is_refused():
    with pytest.raises(ValueError, match=r"`problem_type` must be one of 'regression', .* got 'ranking'"):
        classifier(problem_type="ranking")


@pytest.mark.slow
def test_training_compiles_to_one_graph_and_records_the_problem_type():
    torch._dynamo.reset()
    model = classifier().train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(images(), labels=INDICES).loss
    loss.backward()
    assert model.config.problem_type == "single_label_classification"
    torch.testing.assert_close(loss, model(images(), labels=INDICES).loss)
