"""How a fine-tuning starts: from the linear probe of frozen features, and with a frozen encoder."""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling.modeling_spectralgpt import SpectralGPTForImageClassification
from .probing import LinearProbe, extract_features
from .samples import Samples


PROBE_WEIGHT_DECAY = 0.1


def start_from_samples(model: PreTrainedModel, samples: Samples) -> None:
    """Give a new classifier the weights of the linear probe of its frozen features of samples, in place.

    Raises:
        ValueError: If it is no classifier of SpectralGPT, or the samples have no class number each.
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
    """Give a classifier the weights of the linear probe of frozen features, in place.

    Args:
        model: With a head for the classes.
        features: Pooled outputs of its encoder (M, D).
        labels: Class numbers (M,).
        weight_decay: Of the probe.
    """
    probe = LinearProbe(features, labels, model.classifier.out_features, weight_decay)
    with torch.no_grad():
        model.classifier.weight.copy_(probe.linear.weight / probe.std)
        model.classifier.bias.copy_(probe.linear.bias - model.classifier.weight @ probe.mean)


class FrozenStart(TrainerCallback):
    """Lets only the head learn in the first part of a training: the encoder's gradients are neither computed nor used.

    Args:
        model: Any model with a `base_model`.
        share: Of all steps.
    """

    def __init__(self, model: PreTrainedModel, share: float) -> None:
        self.encoder, self.share = model.base_model, share

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.encoder.requires_grad_(state.global_step >= self.share * state.max_steps)
