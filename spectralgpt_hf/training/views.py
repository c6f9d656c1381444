"""Views of a batch for a pretraining step: normalised crops, their attention mask, and the noise that masks tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

from ..data.keyed_random import keyed_uniform
from ..data.shards.stream import Batch
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import mask_units
from ..modeling.pixel_statistics import allocate, minimum_maximum, span, with_extremes
from .crops import random_crop_weights, resample
from .transforms import flip_and_rotate, stretch_ranges, vary_atmosphere


CROP_STREAM, NOISE_STREAM, SYMMETRY_STREAM, STRETCH_STREAM, ATMOSPHERE_STREAM = range(5)
STREAMS_PER_VIEW = 16
# In training, zscore values are clipped at this number of standard deviations. Otherwise the squared errors of clouds
# would outweigh those of the land.
OUTLIERS = 6.0


@dataclass(frozen=True)
class ViewRecipe:
    """Settings with which the crops of a training step are normalised and varied.

    Attributes:
        limits: Mean and standard deviation of each band, in digital numbers (zscore); None for the minimum and the
            maximum of each image.
        crop_scale: Smallest share of an image's area that a crop takes.
        symmetries: Whether crops get one of all eight symmetries of the square; otherwise they are only flipped
            left to right.
        stretch: Largest random growth of the range of each band, as a share of it (`stretch_ranges`).
        atmosphere: Strength of random haze, water vapour and calibration (`vary_atmosphere`), which needs `limits`.
    """

    limits: tuple[torch.Tensor, torch.Tensor] | None = None
    crop_scale: float = 0.2
    symmetries: bool = False
    stretch: float = 0.0
    atmosphere: float = 0.0


class Views(TypedDict):
    """Arguments of `SpectralGPTForPreTraining`; `attention_mask` is None where every pixel has data."""

    pixel_values: torch.Tensor
    noise: torch.Tensor
    attention_mask: torch.Tensor | None


def make_views(
    batch: Batch,
    config: SpectralGPTConfig,
    seed: int,
    epoch: int,
    device: torch.device,
    recipe: ViewRecipe = ViewRecipe(),
    view: int = 0,
) -> Views:
    """Normalise each band as the recipe says and crop at random, batched, on the device.

    Without `limits`, each band of the whole image is scaled to [0, 1] before it is cropped, as in the paper.

    Args:
        batch: Batch of `ShardStream`.
        config: Configuration of the model, which gives the size of the crops and the kind of masking.
        seed: Seed of the run. Random numbers depend on it, on the epoch, and on the numbers of the samples.
        epoch: Number of the pass over the data.
        device: Device to compute on.
        recipe: Settings of normalisation and variation.
        view: Number of the view, if a step uses several views of each image.

    Returns:
        Crops (B, C, `image_size`, `image_size`); noise (B, units); and an attention mask (B, N), which is 0 for tokens
        to which a pixel without data contributes.
    """
    ids, extent = batch["ids"].to(device), batch["extent"].to(device)
    images = batch["images"].to(device, non_blocking=True)
    valid = batch["valid"].to(device) if "valid" in batch else None
    size = config.image_size

    def uniform(count: int, stream: int) -> torch.Tensor:
        return keyed_uniform(seed, epoch, ids, count, STREAMS_PER_VIEW * view + stream)

    scale = (recipe.crop_scale, 1.0)
    rows, columns = random_crop_weights(uniform(5, CROP_STREAM), extent, images.shape[2:], size, scale)
    counted = valid
    if (batch["extent"] != torch.tensor(images.shape[2:])).any():
        grid = (torch.arange(length, device=device) for length in images.shape[2:])
        inside = [position < length[:, None] for position, length in zip(grid, extent.unbind(1))]
        unpadded = inside[0][:, :, None] & inside[1][:, None, :]
        counted = unpadded if valid is None else valid & unpadded
    # Normalisation is linear and the weights of a crop sum to 1, so that cropping can come first. Fewer pixels are then
    # normalised.
    crops = allocate((*images.shape[:2], size, size), torch.float32, device).copy_(resample(images, rows, columns))
    if recipe.limits is not None:
        if recipe.atmosphere:
            draws = uniform(3 + len(crops[0]), ATMOSPHERE_STREAM)
            crops = vary_atmosphere(crops, config.bands or (), draws, recipe.atmosphere, config.expected_sensor)
        mean, std = (limit.to(device)[:, None, None] for limit in recipe.limits)
        crops.sub_(mean).div_(std).clamp_(-OUTLIERS, OUTLIERS)
    else:
        low, high = with_extremes(images)[1] if counted is None else minimum_maximum(images.float(), counted)
        crops.sub_(low[..., None, None]).div_(span(low, high)[..., None, None])
    turns = uniform(3, SYMMETRY_STREAM)
    if recipe.stretch:
        crops = stretch_ranges(crops, uniform(2 + 2 * len(crops[0]), STRETCH_STREAM), recipe.stretch)
    if recipe.symmetries:
        (crops,) = flip_and_rotate([crops], turns)
    attention_mask = None
    if valid is not None:
        positive = (weights._replace(matrix=weights.matrix.abs()) for weights in (rows, columns))
        reached = resample((~valid)[:, None], *positive) > 1e-6  # (B, 1, size, size)
        if recipe.symmetries:
            (reached,) = flip_and_rotate([reached], turns)
        crops = crops.masked_fill(reached, 0.0)
        lacking = torch.nn.functional.max_pool2d(reached.float(), config.patch_size)  # (B, 1, h, w)
        groups = config.num_groups
        attention_mask = (lacking == 0).expand(-1, groups, -1, -1).flatten(1).long()
    side = size // config.patch_size
    _, units = mask_units((config.num_groups, side, side), config.masking)
    noise = uniform(units, NOISE_STREAM)
    return Views(pixel_values=crops, noise=noise, attention_mask=attention_mask)


def join_views(views: Sequence[Views]) -> Views:
    """Concatenate several views of one batch along the batch dimension."""
    masks = [view["attention_mask"] for view in views]
    return Views(
        pixel_values=torch.cat([view["pixel_values"] for view in views]),
        noise=torch.cat([view["noise"] for view in views]),
        attention_mask=None if masks[0] is None else torch.cat([mask for mask in masks if mask is not None]),
    )
