"""Augmentations against overfitting: symmetries, varied ranges, erased boxes, mixed images, and soft targets.

Each function takes a batch on the device and the random numbers to use (`keyed_uniform`), and holds no state.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..modeling.bands import SENTINEL_2, Sensor


def flip_and_rotate(tensors: Sequence[torch.Tensor], uniform: torch.Tensor) -> list[torch.Tensor]:
    """Apply one of the eight symmetries of the square to each sample: 90-degree rotations, mirrored or not.

    Args:
        tensors: Square images (B, C, H, W) and maps (B, H, W). A sample's image and map get the same symmetry.
        uniform: (B, 3) in [0, 1).

    Raises:
        ValueError: If a tensor is not square.
    """
    results = []
    for tensor in tensors:
        if tensor.shape[-1] != tensor.shape[-2]:
            raise ValueError(f"Only squares can be rotated, got {tensor.shape[-2]} x {tensor.shape[-1]} px.")
        sideways, upside_down, transposed = (uniform < 0.5).view(len(tensor), 3, *[1] * (tensor.ndim - 1)).unbind(1)
        tensor = torch.where(sideways, tensor.flip(-1), tensor)
        tensor = torch.where(upside_down, tensor.flip(-2), tensor)
        results.append(torch.where(transposed, tensor.transpose(-1, -2), tensor))
    return results


def stretch_ranges(images: torch.Tensor, uniform: torch.Tensor, most: float) -> torch.Tensor:
    """Scale each band to [0, 1] as if its image also held darker and brighter pixels, such as shadows and clouds.

    Args:
        images: (B, C, H, W), scaled to [0, 1] with the extremes of each band.
        uniform: (B, 2 + 2 C) in [0, 1): how far the ranges of an image grow at the dark and at the bright end, then the
            same for each band.
        most: Largest growth at either end, as a share of the range.

    Raises:
        ValueError: If `most` is negative.
    """
    if most < 0:
        raise ValueError(f"A range can grow by a share of 0 or more, got {most}.")
    below, above = (most * uniform[:, :2, None] * uniform[:, 2:].unflatten(1, (2, -1))).unbind(1)  # (B, C)
    return (images + below[..., None, None]) / (1 + below + above)[..., None, None]


def random_erasing(
    images: torch.Tensor, uniform: torch.Tensor, probability: float, scale: tuple[float, float] = (0.02, 0.33)
) -> torch.Tensor:
    """Fill a random box in some of the images with the mean of each band (Zhong et al., 2020).

    Args:
        images: (B, C, H, W).
        uniform: (B, 5) in [0, 1): whether a box is erased, its area, shape, row and column.
        probability: Share of the images with a box.
        scale: Smallest and largest area of the box, as shares of the image.
    """
    area = scale[0] + (scale[1] - scale[0]) * uniform[:, 1]
    shape = torch.exp(math.log(0.3) * (1 - 2 * uniform[:, 2]))  # height over width, 0.3 to its inverse
    sides = torch.stack([(area * shape).sqrt(), (area / shape).sqrt()], 1).clamp(max=1)
    boxes = box_masks(uniform[:, 3:5] * (1 - sides), sides, images.shape[2:])
    erased = boxes & (uniform[:, 0] < probability)[:, None, None, None]
    return torch.where(erased, images.mean((2, 3), keepdim=True), images)


def soft_targets(labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Return class probabilities (B, `num_classes`) of labels (B,); `smoothing` is spread over all classes evenly."""
    hot = nn.functional.one_hot(labels, num_classes).float()
    return hot * (1 - smoothing) + smoothing / num_classes


def mix(
    images: torch.Tensor, targets: torch.Tensor, uniform: torch.Tensor, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image with the next of the batch: by mixup (Zhang et al., 2018) or by cutmix (Yun et al., 2019).

    If both are on, half of the images get mixup and half get cutmix, at random.

    Args:
        images: (B, C, H, W).
        targets: Class probabilities (B, K).
        uniform: (B, 4) in [0, 1): mixup or cutmix, share of the other image, row and column of the box.
        mixup: Both parameters of the beta distribution of the other image's share; 0 turns mixup off.
        cutmix: Both parameters of the beta distribution of the box's area; 0 turns cutmix off.

    Returns:
        Images and targets, mixed in the same proportions.
    """
    if not mixup and not cutmix:
        return images, targets
    pasted = (uniform[:, 0] < (0.5 if mixup and cutmix else float(bool(cutmix))))[:, None, None, None]
    share = torch.ones_like(uniform[:, 1])
    boxes = torch.zeros_like(images[:, :1], dtype=torch.bool)
    if mixup:
        share = beta_quantile(uniform[:, 1], mixup)
    if cutmix:
        side = beta_quantile(uniform[:, 1], cutmix).sqrt()[:, None].expand(-1, 2)
        boxes = box_masks(uniform[:, 2:4] - side / 2, side, images.shape[2:])
        share = torch.where(pasted.flatten(), boxes.float().mean((1, 2, 3)), share)
    other, blend = images.roll(-1, 0), share[:, None, None, None].to(images.dtype)
    mixed = torch.where(pasted, torch.where(boxes, other, images), images.lerp(other, blend))
    return mixed, targets.lerp(targets.roll(-1, 0), share[:, None])


def box_masks(start: torch.Tensor, sides: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return masks (B, 1, H, W) of boxes whose `start` and `sides` (B, 2) are shares of height and width."""
    inside = []
    for axis, length in enumerate(size):
        centre = (torch.arange(length, device=start.device) + 0.5) / length
        first = start[:, axis, None]
        inside.append((centre >= first) & (centre < first + sides[:, axis, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def beta_quantile(uniform: torch.Tensor, alpha: float, steps: int = 4096) -> torch.Tensor:
    """Turn uniform numbers into numbers of the distribution beta(`alpha`, `alpha`), by a table of its quantiles."""
    grid = (torch.arange(steps, device=uniform.device, dtype=torch.float64) + 0.5) / steps
    cumulative = (grid * (1 - grid)).pow(alpha - 1).cumsum(0)
    index = torch.searchsorted(cumulative / cumulative[-1], uniform.double())
    return grid[index.clamp(max=steps - 1)].to(uniform.dtype)


def vary_atmosphere(
    images: torch.Tensor,
    band_names: Sequence[str],
    uniform: torch.Tensor,
    strength: float = 1.0,
    sensor: Sensor = SENTINEL_2,
) -> torch.Tensor:
    """Vary path radiance, water vapour and calibration, as between the bottom and the top of the atmosphere.

    Rayleigh scattering adds between -200 and 1,100 digital numbers at 443 nm, which falls with the fourth power of the
    wavelength: level 1C of Sentinel-2 differs from level 2A by about the upper end. Bands near 940 nm (B9) lose up to
    three quarters of their signal. Calibration differs by up to 10 % for the image and by up to 5 % for each band.

    Args:
        images: Digital numbers (B, C, H, W), float, which are modified in place.
        band_names: Names of the C bands.
        uniform: (B, 3 + C) in [0, 1): scattering, water vapour, calibration of the image, calibration of each band.
        strength: Factor of all these effects.
        sensor: Sensor of the bands.
    """
    wavelengths = torch.tensor(sensor.wavelengths(band_names), device=images.device)
    path = strength * (1300 * uniform[:, :1] - 200) * (443 / wavelengths) ** 4
    gain = torch.exp(strength * (0.2 * (uniform[:, 2:3] - 0.5) + 0.1 * (uniform[:, 3:] - 0.5)))
    wet = (wavelengths - 943).abs() < 20
    gain = torch.where(wet, gain * (1 - 0.75 * strength * uniform[:, 1:2]), gain)
    return images.mul_(gain[..., None, None]).add_(path[..., None, None])
