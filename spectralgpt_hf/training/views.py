"""What a pretraining step sees of a batch: normalised crops, where they have data, and the noise that masks them."""

from typing import TypedDict

import torch

from ..data.keyed_random import keyed_uniform
from ..data.shards.stream import Batch
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import mask_units
from ..modeling.pixel_statistics import allocate, minimum_maximum, span, with_extremes
from .crops import random_crop_weights, resample
from .transforms import flip_and_rotate, stretch_ranges


NOISE_STREAM, SYMMETRY_STREAM, STRETCH_STREAM = 1, 2, 3


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
    symmetries: bool = False,
    stretch: float = 0.0,
) -> Views:
    """Scale each band of the whole image to [0, 1], then crop at random: MODEL.md's order, batched, on the device.

    Args:
        batch: From `ShardStream`.
        config: Tells the size of the crops and what is masked together.
        seed: Of the crops and the masks, with the epoch and the numbers of the samples.
        epoch: Number of the pass over the data.
        device: Where to compute.
        symmetries: Whether to turn and mirror the crops in all eight ways, and not sideways alone.
        stretch: Share of its range by which each band may seem to have darker and brighter pixels (`stretch_ranges`).

    Returns:
        Crops (B, C, `image_size`, `image_size`); noise (B, units); an attention mask (B, N) that is 0 for the tokens
        that a pixel without data has a part in.
    """
    ids, extent = batch["ids"].to(device), batch["extent"].to(device)
    images = batch["images"].to(device, non_blocking=True)
    valid = batch["valid"].to(device) if "valid" in batch else None
    size = config.image_size
    rows, columns = random_crop_weights(keyed_uniform(seed, epoch, ids, 5), extent, images.shape[2:], size)
    counted = valid
    if (batch["extent"] != torch.tensor(images.shape[2:])).any():
        grid = (torch.arange(length, device=device) for length in images.shape[2:])
        inside = [place < length[:, None] for place, length in zip(grid, extent.unbind(1))]
        unpadded = inside[0][:, :, None] & inside[1][:, None, :]
        counted = unpadded if valid is None else valid & unpadded
    low, high = with_extremes(images)[1] if counted is None else minimum_maximum(images.float(), counted)
    # The weights of a crop sum to 1, so it may be taken first: most pixels then need no arithmetic.
    crops = allocate((*low.shape, size, size), torch.float32, device)
    torch.sub(resample(images, rows, columns), low[..., None, None], out=crops)
    crops.div_(span(low, high)[..., None, None])
    turns = keyed_uniform(seed, epoch, ids, 3, SYMMETRY_STREAM)
    if stretch:
        crops = stretch_ranges(crops, keyed_uniform(seed, epoch, ids, 2 + 2 * len(crops[0]), STRETCH_STREAM), stretch)
    if symmetries:
        (crops,) = flip_and_rotate([crops], turns)
    attention_mask = None
    if valid is not None:
        positive = (weights._replace(matrix=weights.matrix.abs()) for weights in (rows, columns))
        reached = resample((~valid)[:, None], *positive) > 1e-6  # (B, 1, size, size)
        if symmetries:
            (reached,) = flip_and_rotate([reached], turns)
        crops = crops.masked_fill(reached, 0.0)
        lacking = torch.nn.functional.max_pool2d(reached.float(), config.patch_size)  # (B, 1, h, w)
        groups = config.num_channels // config.spectral_patch_size
        attention_mask = (lacking == 0).expand(-1, groups, -1, -1).flatten(1).long()
    places = size // config.patch_size
    _, units = mask_units((config.num_channels // config.spectral_patch_size, places, places), config.masking)
    noise = keyed_uniform(seed, epoch, ids, units, NOISE_STREAM)
    return Views(pixel_values=crops, noise=noise, attention_mask=attention_mask)
