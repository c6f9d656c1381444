"""Batches of labelled samples, and what of them a model takes."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def collate(samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack samples. Images smaller than the largest are padded at the bottom and the right; `extent` is their size."""
    examples = {name: sample for sample in samples for name in sample}
    batch = {}
    for name, example in examples.items():
        values = [sample[name] if name in sample else _full_mask(sample, example, name) for sample in samples]
        dims = values[0].ndim
        sides = [max(value.shape[axis] for value in values) for axis in (-2, -1)] if dims == 3 else []
        batch[name] = torch.stack([_pad(value, sides) for value in values])
    return batch


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the arguments of a model of SpectralGPT, without labels, for a batch of `collate`."""
    inputs = {name: value for name, value in batch.items() if name.startswith("pixel_values")}
    masks = {name: value for name, value in batch.items() if name.startswith("attention_mask")}
    if "dates" not in batch:
        return inputs | {name: mask.flatten(1) for name, mask in masks.items()}
    each = (batch["dates"].shape[1], -1)
    inputs = {name: pixels.unflatten(1, each) for name, pixels in inputs.items()}
    return (
        inputs | {name: mask.unflatten(1, each).flatten(2) for name, mask in masks.items()} | {"dates": batch["dates"]}
    )


def tokens_with_data(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Return where tokens have data, of a pair at both dates; None if all have. The shape is that of the masks."""
    masks = [inputs[name].bool() for name in ("attention_mask", "attention_mask_after") if name in inputs]
    return torch.stack(masks).all(0) if masks else None


def _full_mask(sample: Mapping[str, torch.Tensor], example: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a mask without gaps for a sample that has none, in the format of another sample's mask."""
    patch = example["pixel_values"].shape[-1] // example[name].shape[-1]
    height, width = sample["pixel_values"].shape[-2:]
    return example[name].new_ones(len(example[name]), height // patch, width // patch)


def _pad(value: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    if not sides or list(value.shape[-2:]) == list(sides):
        return value
    return nn.functional.pad(value, (0, sides[1] - value.shape[-1], 0, sides[0] - value.shape[-2]))
