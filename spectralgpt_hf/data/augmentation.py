"""Random crops and flips of whole batches on the device, as pure functions of (seed, epoch, sample).

Nothing here keeps state: a run that resumes, or that is spread over other processes, sees the same pictures.
"""

import math
from collections.abc import Sequence

import torch


def keyed_uniform(seed: int, epoch: int, sample_ids: torch.Tensor, count: int, stream: int = 0) -> torch.Tensor:
    """Draw random numbers that depend on their key alone (SplitMix64, a counter-based generator).

    Args:
        seed: Seed of the run.
        epoch: Number of the pass over the data.
        sample_ids: (B,), integers that name the samples.
        count: How many numbers a sample needs.
        stream: What they are for, so that a crop and a mask of one sample are independent.

    Returns:
        (B, `count`) float32 in [0, 1), on the device of `sample_ids`.
    """
    key = torch.tensor(0, dtype=torch.int64, device=sample_ids.device)
    for part in (seed, epoch, stream):
        key = _mix(key + part)
    counter = torch.arange(count, device=sample_ids.device)
    bits = _mix(_mix(key + sample_ids.long())[:, None] + counter)
    return _shift_right(bits, 40).float() * 2**-24


def random_resized_crop(
    images: torch.Tensor,
    uniform: torch.Tensor,
    size: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    extent: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut a random box out of each image, scale it to a square (antialiased bicubic) and flip half of them sideways.

    Two matrix products a batch: resampling is linear, so each image has one matrix for its rows and one for its
    columns.

    Args:
        images: (B, C, H, W), float.
        uniform: (B, 5) in [0, 1): area, shape, row, column, flip.
        size: Height and width of the result, in pixels.
        scale: Range of the box's share of the image's area.
        ratio: Range of the box's width over its height.
        extent: (B, 2), height and width of each image where `images` is padded at the bottom and the right.

    Returns:
        (B, C, `size`, `size`); bicubic overshoot is kept.
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices of a random resized crop, which `resample` applies.

    Args:
        uniform: As in `random_resized_crop`, and so are `size`, `scale` and `ratio`.
        extent: (B, 2), height and width of each image.
        source: Height and width of the batch.

    Returns:
        (B, `size`, H) for the rows and (B, `size`, W) for the columns, which are mirrored in half of the images.
    """
    area = extent.prod(1) * (scale[0] + (scale[1] - scale[0]) * uniform[:, 0])
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniform[:, 1])
    box = torch.stack([(area / shape).sqrt(), (area * shape).sqrt()], 1).round()  # height, width
    box = torch.minimum(box, extent).clamp(min=1)
    start = (uniform[:, 2:4] * (extent - box + 1)).floor()
    rows = _bicubic_weights(start[:, 0], box[:, 0], source[0], size)
    columns = _bicubic_weights(start[:, 1], box[:, 1], source[1], size)
    return rows, torch.where(uniform[:, 4, None, None] < 0.5, columns.flip(1), columns)


def resample(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Apply one matrix (B, h, H) to the rows and one (B, w, W) to the columns of images (B, C, H, W) of any type."""
    if images.device.type == "cpu":
        return _resample_in_cache(images, rows, columns)
    # One product for all bands of an image: broadcasting the matrix would copy it for each of them.
    narrow = images.to(rows.dtype).flatten(1, 2) @ columns.transpose(1, 2)
    return rows[:, None] @ narrow.unflatten(1, images.shape[1:3])


def _resample_in_cache(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Do the same image by image: what lies in the cache is used at once, and only the box that counts is touched."""
    used = [(matrix != 0).any(dim=1) for matrix in (rows, columns)]
    boxes = [(mask.int().argmax(1), mask.shape[1] - mask.flip(1).int().argmax(1)) for mask in used]
    (top, bottom), (left, right) = ((start.tolist(), stop.tolist()) for start, stop in boxes)
    results = torch.empty(*images.shape[:2], rows.shape[1], columns.shape[1], dtype=rows.dtype)
    for i, (image, result) in enumerate(zip(images, results)):
        part = image[:, top[i] : bottom[i], left[i] : right[i]].to(rows.dtype)
        narrow = part @ columns[i, :, left[i] : right[i]].T
        torch.matmul(rows[i, :, top[i] : bottom[i]], narrow, out=result)
    return results


def _bicubic_weights(start: torch.Tensor, length: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Return (B, target, source): how much each source pixel adds to each target pixel, from the box alone."""
    scale = (length / target)[:, None]
    support = scale.clamp(min=1)  # widened when shrinking: antialiasing
    centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale
    pixel = torch.arange(source, device=start.device)
    distance = (pixel + 0.5 - centre[..., None]).div_(support[..., None]).abs_()
    near = (1.5 * distance).sub_(2.5).mul_(distance).mul_(distance).add_(1)
    far = (-0.5 * distance).add_(2.5).mul_(distance).sub_(4).mul_(distance).add_(2)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    weights = torch.where(distance < 1, near, far).mul_((distance < 2) & inside[:, None])
    return weights.div_(weights.sum(-1, keepdim=True))


def _shift_right(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Shift without the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 (Steele et al., 2014), on int64 that wraps around; constants as signed numbers."""
    bits = bits + -7046029254386353131
    bits = (bits ^ _shift_right(bits, 30)) * -4658895280553007687
    bits = (bits ^ _shift_right(bits, 27)) * -7723592293110705685
    return bits ^ _shift_right(bits, 31)
