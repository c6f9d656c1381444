"""Augmentation of training batches on the device, as a function of (seed, epoch, sample)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..data.keyed_random import keyed_uniform
from ..modeling.geometry import token_validity
from .crops import random_resized_crop
from .options import FineTuningOptions
from .transforms import flip_and_rotate, mix, random_erasing, soft_targets


# Streams of random numbers
CROP, TURN, ERASE, MIX = range(4)


@dataclass(frozen=True)
class Augmentation:
    """Augments batches of `collate`.

    Attributes:
        options: Options of the run, which say which augmentations to apply and how strongly.
        num_classes: Number of classes if labels are class numbers, which are then turned into probabilities.
    """

    options: FineTuningOptions
    num_classes: int | None = None

    def __call__(self, batch: Mapping[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        """Return the augmented batch in pass `epoch` over the data."""
        options, ids = self.options, batch["ids"]
        batch = dict(batch)

        def uniform(count: int, stream: int) -> torch.Tensor:
            return keyed_uniform(options.seed, epoch, ids, count, stream)

        if options.crop_scale is not None:
            draws, scale = uniform(5, CROP), (options.crop_scale, 1.0)
            pixels = with_shares(batch)
            crops = random_resized_crop(pixels, draws, options.image_size, scale, extent=batch["extent"])
            batch |= without_shares(crops, batch)
        if options.symmetries:
            names = [name for name in batch if batch[name].ndim >= 3]
            batch |= zip(names, flip_and_rotate([batch[name] for name in names], uniform(3, TURN)))
        if options.random_erasing:
            batch["pixel_values"] = random_erasing(batch["pixel_values"], uniform(5, ERASE), options.random_erasing)
        if self.num_classes is not None:
            targets = soft_targets(batch["labels"], self.num_classes, options.label_smoothing)
            mixed, batch["labels"] = mix(with_shares(batch), targets, uniform(4, MIX), options.mixup, options.cutmix)
            batch |= without_shares(mixed, batch)
        return batch


def with_shares(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Append a channel per spectral group that holds the share of each pixel that has data, to be augmented alike."""
    pixels = batch["pixel_values"]
    if "attention_mask" not in batch:
        return pixels
    shares = nn.functional.interpolate(batch["attention_mask"].to(pixels.dtype), pixels.shape[2:], mode="nearest")
    return torch.cat([pixels, shares], 1)


def without_shares(pixels: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split off the channels of `with_shares` after augmentation, and turn them into attention masks."""
    if "attention_mask" not in batch:
        return {"pixel_values": pixels}
    pixels, shares = pixels.split([batch["pixel_values"].shape[1], batch["attention_mask"].shape[1]], 1)
    patch = batch["pixel_values"].shape[-1] // batch["attention_mask"].shape[-1]
    return {"pixel_values": pixels, "attention_mask": token_validity(shares, patch).long()}
