"""Random crops and flips of whole batches on the device.

The functions take their random numbers as arguments and hold no state, so a run that resumes or that is spread over
another number of processes sees the same crops.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..modeling.pixel_statistics import allocate


class Weights(NamedTuple):
    """Resampling weights along one axis: the weight of each of S source pixels in each of T new pixels.

    Only a few neighbours of a new pixel have a weight.

    Attributes:
        matrix: (B, T, S), float32.
        first: (B, T), index of the first source pixel that may have a weight; negative at the edge of the image.
        taps: Number of consecutive source pixels that may have a weight.
    """

    matrix: torch.Tensor
    first: torch.Tensor
    taps: int

    def flip(self, chosen: torch.Tensor) -> "Weights":
        """Reverse the order of the new pixels in the `chosen` images, (B,) bool."""
        matrix = torch.where(chosen[:, None, None], self.matrix.flip(1), self.matrix)
        return Weights(matrix, torch.where(chosen[:, None], self.first.flip(1), self.first), self.taps)

    def blocks(self, number: int) -> tuple[list[slice], list[list[slice]]]:
        """Split the new pixels into about `number` slices; return them and, for each image, the source slices."""
        targets, sources = self.matrix.shape[1:]
        step = -(-targets // number)
        parts = [slice(start, start + step) for start in range(0, targets, step)]
        starts = torch.stack([self.first[:, part].amin(1) for part in parts], 1).clamp(min=0).tolist()
        stops = torch.stack([self.first[:, part].amax(1) for part in parts], 1).add(self.taps).clamp(max=sources)
        return parts, [[slice(*ends) for ends in zip(*image)] for image in zip(starts, stops.tolist())]


def random_resized_crop(
    images: torch.Tensor,
    uniform: torch.Tensor,
    size: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    extent: torch.Tensor | None = None,
) -> torch.Tensor:
    """Crop a random box of each image, resize it to a square (antialiased bicubic), and flip half of them sideways.

    Resampling is linear, so it takes two matrix products per batch: each image has one matrix for its rows and one for
    its columns.

    Args:
        images: (B, C, H, W), of any type.
        uniform: (B, 5) in [0, 1): area, shape, row, column, flip.
        size: Height and width of the result, in pixels.
        scale: Range of the box's share of the image's area.
        ratio: Range of the box's width over its height.
        extent: (B, 2), height and width of each image where `images` is padded at the bottom and the right.

    Returns:
        (B, C, `size`, `size`), float32; bicubic overshoot is kept.
    """
    if extent is None:
        extent = torch.tensor(images.shape[-2:], device=images.device).expand(len(images), 2)
    return resample(images, *random_crop_weights(uniform, extent, images.shape[-2:], size, scale, ratio))


def random_crop_weights(
    uniform: torch.Tensor,
    extent: torch.Tensor,
    source: Sequence[int],
    size: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[Weights, Weights]:
    """Return the weights of a random resized crop, which `resample` applies.

    Args:
        uniform: (B, 5) in [0, 1): area, shape, row, column, flip.
        extent: (B, 2), height and width of each image.
        source: Height and width of the batch.
        size: Height and width of the crops, in pixels.
        scale: Range of the box's share of the image's area.
        ratio: Range of the box's width over its height.

    Returns:
        Weights of the rows, and weights of the columns, which are reversed in half of the images.
    """
    area = extent.prod(1) * (scale[0] + (scale[1] - scale[0]) * uniform[:, 0])
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniform[:, 1])
    box = torch.stack([(area / shape).sqrt(), (area * shape).sqrt()], 1).round()  # height, width
    box = torch.minimum(box, extent).clamp(min=1)
    start = (uniform[:, 2:4] * (extent - box + 1)).floor()
    rows = _bicubic_weights(start[:, 0], box[:, 0], source[0], size)
    columns = _bicubic_weights(start[:, 1], box[:, 1], source[1], size)
    return rows, columns.flip(uniform[:, 4] < 0.5)


def resample(images: torch.Tensor, rows: Weights, columns: Weights) -> torch.Tensor:
    """Resample the rows and the columns of images (B, C, H, W) of any type. On CPUs, the result is not contiguous."""
    if images.device.type == "cpu":
        return _resample_in_cache(images, rows, columns)
    # One product serves all bands of an image, because broadcasting the matrix would copy it for each band.
    narrow = images.to(columns.matrix.dtype).flatten(1, 2) @ columns.matrix.transpose(1, 2)
    return rows.matrix[:, None] @ narrow.unflatten(1, images.shape[1:3])


def _resample_in_cache(images: torch.Tensor, rows: Weights, columns: Weights) -> torch.Tensor:
    """Do the same image by image, so that its pixels fit into the cache, and skip most of the zero weights.

    Rows are resampled first, so that each product covers all bands at once.
    """
    (row_parts, row_sources), (column_parts, column_sources) = rows.blocks(4), columns.blocks(2)
    bands, height, width = images.shape[1], rows.matrix.shape[1], columns.matrix.shape[1]
    results = allocate((len(images), height, bands, width), rows.matrix.dtype, images.device)
    for i, (image, result) in enumerate(zip(images, results)):
        top, bottom = min(part.start for part in row_sources[i]), max(part.stop for part in row_sources[i])
        left, right = min(part.start for part in column_sources[i]), max(part.stop for part in column_sources[i])
        box = result.new_empty(bottom - top, bands, right - left)
        box.copy_(image[:, top:bottom, left:right].transpose(0, 1))
        flat = result.new_empty(height, bands, right - left)
        for part, used in zip(row_parts, row_sources[i]):
            lines = box[used.start - top : used.stop - top].flatten(1)
            torch.mm(rows.matrix[i, part, used], lines, out=flat[part].flatten(1))
        for part, used in zip(column_parts, column_sources[i]):
            lines = flat.flatten(0, 1)[:, used.start - left : used.stop - left]
            torch.mm(lines, columns.matrix[i, part, used].T, out=result.flatten(0, 1)[:, part])
    return results.transpose(1, 2)


def _bicubic_weights(start: torch.Tensor, length: torch.Tensor, source: int, target: int) -> Weights:
    """Return the weight of each source pixel in each target pixel; pixels outside of the box have none."""
    scale = (length / target)[:, None]
    support = scale.clamp(min=1)  # widened when shrinking: antialiasing
    taps = int(4 * max(1.0, source / target)) + 1
    centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale
    first = (centre - 2 * support - 0.5).ceil()
    pixel = first[..., None] + torch.arange(taps, device=start.device)  # (B, target, taps)
    distance = (pixel + 0.5 - centre[..., None]).div_(support[..., None]).abs_()
    near = (1.5 * distance).sub_(2.5).mul_(distance).mul_(distance).add_(1)
    far = (-0.5 * distance).add_(2.5).mul_(distance).sub_(4).mul_(distance).add_(2)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = torch.where(distance < 1, near, far).mul_((distance < 2) & inside)
    weights.div_(weights.sum(-1, keepdim=True))
    # Pixels beyond the image have no weight. They are written into extra columns on both sides, which are cut off.
    matrix = weights.new_zeros(len(weights), target, source + 2 * taps)
    matrix.scatter_(2, pixel.long() + taps, weights)
    return Weights(matrix[..., taps:-taps], first.long(), taps)
