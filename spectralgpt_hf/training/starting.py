"""Ways to start fine-tuning: from a head that is solved exactly, and with a frozen encoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    label_weights,
    skipped_pixels,
    with_data_at_any_date,
)
from .batches import collate, model_inputs, tokens_with_data
from .probing import LinearProbe, linear_discriminant
from .samples import Samples


if TYPE_CHECKING:
    from peft import PeftModel


DenseModel: TypeAlias = SpectralGPTForSemanticSegmentation | SpectralGPTForChangeDetection
NUM_PIXELS = 20_000  # of all training images together, to which the linear map of pixels is fitted
PIXEL_WEIGHT_DECAY = 1e-4


def start_from_samples(model: "PreTrainedModel | PeftModel", samples: Samples, seed: int = 0) -> None:
    """Set the head of a new model to what can be solved exactly from samples, with the encoder as it is.

    A classifier starts as the linear discriminant of the pooled features, with `config.pixel_skip` as the mean of it
    and of that of the statistics of bands. A model of segmentation or change with `config.pixel_skip` starts as the
    logistic regression of its pixels.

    Args:
        model: New model. Its head is modified.
        samples: Samples to learn from.
        seed: Seed of the choice of pixels.

    Raises:
        ValueError: If the head of the model has no such start, or the samples do not have one class number each.
    """
    new = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    if isinstance(new, SpectralGPTForImageClassification) and samples.problem_type == "single_label_classification":
        start_from_features(new, *classifier_inputs(new, samples))
    elif isinstance(new, DenseModel) and new.config.pixel_skip:
        start_from_pixels(new, *labelled_values(new, samples, seed))
    else:
        raise ValueError(
            "`probe_first` is for SpectralGPT as a classifier of images with one class each, or as a model of "
            f"segmentation or change with `pixel_skip`, found {type(new).__name__} and "
            f"{samples.problem_type or 'maps'}: leave it out."
        )


@torch.no_grad()
def classifier_inputs(
    model: SpectralGPTForImageClassification, samples: Samples, batch_size: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the classifier of a model sees of all samples (M, F), float32, and their labels (M,), on the CPU."""
    features, labels = [], []
    for batch in DataLoader(samples, batch_size, collate_fn=collate):
        inputs = _on_device(model.eval(), batch)
        pooled = model.spectralgpt(**inputs).pooler_output
        inputs.pop("dates", None)
        features.append(model.classifier_input(pooled, **inputs).float().cpu())
        labels.append(batch["labels"])
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def labelled_values(
    model: DenseModel, samples: Samples, seed: int = 0, batch_size: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values (M, C), of pairs (M, 2 C), and classes (M,) of pixels, drawn by the weights that classes have."""
    generator = torch.Generator().manual_seed(seed)
    per_batch = -(-NUM_PIXELS * batch_size // len(samples))
    values, labels = [], []
    for batch in DataLoader(samples, batch_size, collate_fn=collate):
        inputs = _on_device(model, batch)
        mask = tokens_with_data(inputs)
        with_data = with_data_at_any_date(mask)
        weights = label_weights(batch["labels"], model.config, None if with_data is None else with_data.cpu()).flatten()
        if not weights.any():
            continue
        count = min(per_batch, NUM_PIXELS, int((weights > 0).sum()))
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        dates = [inputs[name] for name in ("pixel_values", "pixel_values_after") if name in inputs]
        pixels = torch.cat([skipped_pixels(date, model.config, mask)[0] for date in dates], 1)
        flat = pixels.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
        values.append(flat[chosen.to(flat.device)].float().cpu())
        labels.append(batch["labels"].flatten()[chosen])
    return torch.cat(values), torch.cat(labels).long()


def _on_device(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the arguments of a model for a batch of `collate`, on its device and in its type."""
    inputs = {name: value.to(model.device) for name, value in model_inputs(batch).items()}
    return inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)}


@torch.no_grad()
def start_from_features(model: SpectralGPTForImageClassification, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Set the head of a classifier to the linear discriminant of the pooled features.

    With `config.pixel_skip`, it is the mean of two, one of the pooled features and one of the statistics of bands.

    Args:
        model: Model with a head for the classes. It is modified.
        features: Inputs of its classifier (M, F).
        labels: Class numbers (M,).
    """
    pooled, num_classes = model.config.hidden_size, model.classifier.out_features
    parts = [pooled, features.shape[1] - pooled] if model.config.pixel_skip else None
    weight, bias = linear_discriminant(features, labels, num_classes, parts)
    model.classifier.weight.copy_(weight)
    model.classifier.bias.copy_(bias)


def start_from_pixels(model: DenseModel, values: torch.Tensor, labels: torch.Tensor) -> None:
    """Set the head of a model of segmentation or change with `pixel_skip` to the logistic regression of pixels.

    The last convolution of the features starts at 0, so that training adds what the features tell.

    Args:
        model: Model with a head for the classes. It is modified.
        values: Values of pixels (M, C), as the model takes them.
        labels: Class numbers (M,).
    """
    probe = LinearProbe(values, labels, model.decode_head.classifier.out_channels, PIXEL_WEIGHT_DECAY)
    weight, bias = probe.folded()
    head: Any = model.decode_head  # with LoRA, PEFT's copy of it
    with torch.no_grad():
        head.pixel_classifier.weight.copy_(weight[:, :, None, None])
        head.classifier.weight.zero_()
        head.classifier.bias.copy_(bias)


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
