"""What a pretraining step sees of a batch: normalised crops, where they have data, and the noise that masks them."""

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
# Standard deviations at which zscore values are clipped in training: squared errors of clouds would outweigh the land.
OUTLIERS = 6.0


@dataclass(frozen=True)
class ViewRecipe:
    """How the crops of a training step are normalised and varied.

    Attributes:
        limits: Mean and standard deviation of each band, in digital numbers (zscore); None for the minimum and the
            maximum of each image.
        crop_scale: Smallest share of an image's area that a crop takes.
        symmetries: Whether to turn and mirror the crops in all eight ways, and not sideways alone.
        stretch: Share of its range by which each band may seem to have darker and brighter pixels (`stretch_ranges`).
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
        batch: From `ShardStream`.
        config: Tells the size of the crops and what is masked together.
        seed: Of the crops and the masks, with the epoch and the numbers of the samples.
        epoch: Number of the pass over the data.
        device: Where to compute.
        recipe: How crops are normalised and varied.
        view: Number of the view, where one image is seen in several ways.

    Returns:
        Crops (B, C, `image_size`, `image_size`); noise (B, units); an attention mask (B, N) that is 0 for the tokens
        that a pixel without data has a part in.
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
        inside = [place < length[:, None] for place, length in zip(grid, extent.unbind(1))]
        unpadded = inside[0][:, :, None] & inside[1][:, None, :]
        counted = unpadded if valid is None else valid & unpadded
    # The weights of a crop sum to 1, so it may be taken first: most pixels then need no arithmetic.
    crops = allocate((*images.shape[:2], size, size), torch.float32, device).copy_(resample(images, rows, columns))
    if recipe.limits is not None:
        if recipe.atmosphere:
            draws = uniform(3 + len(crops[0]), ATMOSPHERE_STREAM)
            crops = vary_atmosphere(crops, config.bands or (), draws, recipe.atmosphere)
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
        groups = config.num_channels // config.spectral_patch_size
        attention_mask = (lacking == 0).expand(-1, groups, -1, -1).flatten(1).long()
    places = size // config.patch_size
    _, units = mask_units((config.num_channels // config.spectral_patch_size, places, places), config.masking)
    noise = uniform(units, NOISE_STREAM)
    return Views(pixel_values=crops, noise=noise, attention_mask=attention_mask)


def join_views(views: Sequence[Views]) -> Views:
    """Put several views of one batch behind each other, as one batch."""
    masks = [view["attention_mask"] for view in views]
    return Views(
        pixel_values=torch.cat([view["pixel_values"] for view in views]),
        noise=torch.cat([view["noise"] for view in views]),
        attention_mask=None if masks[0] is None else torch.cat([mask for mask in masks if mask is not None]),
    )
