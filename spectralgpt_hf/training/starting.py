"""Ways to start fine-tuning: from the linear probe of frozen features, and with a frozen encoder."""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling.modeling_spectralgpt import SpectralGPTForImageClassification
from .probing import LinearProbe, extract_features
from .samples import Samples


PROBE_WEIGHT_DECAY = 0.1


def start_from_samples(model: PreTrainedModel, samples: Samples) -> None:
    """Set the head of a new classifier to the linear probe of its frozen features of samples.

    Raises:
        ValueError: If the model is not a classifier of SpectralGPT, or the samples do not have one class number each.
    """
    if (
        not isinstance(model, SpectralGPTForImageClassification)
        or samples.problem_type != "single_label_classification"
    ):
        raise ValueError(
            "`probe_first` is for SpectralGPT as a classifier of images with one class each, found "
            f"{type(model).__name__} and {samples.problem_type or 'maps'}: leave it out."
        )
    features, labels = extract_features(model.spectralgpt, samples)
    start_from_probe(model, features, labels, PROBE_WEIGHT_DECAY)


def start_from_probe(
    model: SpectralGPTForImageClassification, features: torch.Tensor, labels: torch.Tensor, weight_decay: float
) -> None:
    """Set the head of a classifier to the linear probe of frozen features.

    Args:
        model: Model with a head for the classes. It is modified.
        features: Pooled outputs of its encoder (M, D).
        labels: Class numbers (M,).
        weight_decay: Weight decay of the probe.
    """
    probe = LinearProbe(features, labels, model.classifier.out_features, weight_decay)
    with torch.no_grad():
        model.classifier.weight.copy_(probe.linear.weight / probe.std)
        model.classifier.bias.copy_(probe.linear.bias - model.classifier.weight @ probe.mean)


class FrozenStart(TrainerCallback):
    """Trains only the head in the first steps, for which no gradients of the encoder are computed.

    Args:
        model: Any model with a `base_model`.
        share: Share of all steps in which the encoder is frozen.
    """

    def __init__(self, model: PreTrainedModel, share: float) -> None:
        self.encoder, self.share = model.base_model, share

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.encoder.requires_grad_(state.global_step >= self.share * state.max_steps)
