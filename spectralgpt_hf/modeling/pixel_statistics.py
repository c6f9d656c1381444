# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Statistics and arithmetic of pixels: pure functions of tensors, without files or band names.

`pixels` are (B, C, H, W). `valid` is (B, H, W) with True where a pixel has data, (B, C, H, W) if bands differ in this,
or None if all pixels have data. Statistics are (B, C), in float32, over the valid pixels.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict

import numpy as np
import torch
from torch import nn


StatisticName: TypeAlias = Literal["minimum", "maximum", "mean", "std", "percentile_1", "percentile_99"]


class Statistics(TypedDict, total=False):
    """Statistics of the pixels of each band, in digital numbers, as `measure_statistics` returns them.

    Attributes:
        bands: Names of the bands. Each list below has one value for each of them.
        pixels: Number of pixels that were measured.
        minimum, maximum, mean, std, percentile_1, percentile_99: The statistics. The standard deviation is that of the
            population.
    """

    bands: Sequence[str]
    pixels: int
    minimum: Sequence[float]
    maximum: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]
    percentile_1: Sequence[float]
    percentile_99: Sequence[float]


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return an uninitialised tensor."""
    if device.type == "cpu":
        # NumPy requests huge pages from the kernel and torch does not. They make the first write three times faster.
        size = math.prod(shape) * dtype.itemsize
        return torch.from_numpy(np.empty(size, dtype=np.uint8)).view(dtype).view(shape)
    return torch.empty(shape, dtype=dtype, device=device)


def stack(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of one shape, dtype and device. A single tensor is not copied."""
    first = images[0]
    if len(images) == 1:
        return first.unsqueeze(0)
    return torch.stack(images, out=allocate((len(images), *first.shape), first.dtype, first.device))


def with_extremes(pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return pixels in a dtype for which torch has arithmetic, and the smallest and largest value of each band."""
    if pixels.dtype != torch.uint16:
        return pixels, minimum_maximum(pixels)
    # Few scenes use the upper half of 16 bits. The others can be viewed as signed integers without a copy.
    signed = pixels.view(torch.int16)
    extremes = minimum_maximum(signed)
    if (extremes[0] < 0).any():
        signed = pixels.int()
        extremes = minimum_maximum(signed)
    return signed, extremes


def minimum_maximum(pixels: torch.Tensor, valid: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest value of each band. Without `valid`, NaN in a band gives NaN."""
    values = pixels.flatten(2)
    if valid is None:
        return values.amin(2).float(), values.amax(2).float()
    outside = ~_per_band(valid).flatten(2)
    smallest, largest = -torch.inf, torch.inf
    if not values.is_floating_point():
        smallest, largest = torch.iinfo(values.dtype).min, torch.iinfo(values.dtype).max
    inside = values.masked_fill(outside, largest)
    low = inside.amin(2).float()
    return low, inside.masked_fill_(outside, smallest).amax(2).float()


def percentiles(pixels: torch.Tensor, valid: torch.Tensor | None, shares: tuple[float, ...]) -> list[torch.Tensor]:
    """Return the exact percentiles of each band, interpolated linearly between neighbours (NumPy's default).

    Args:
        pixels: (B, C, H, W).
        valid: Where pixels have data. Each band needs one such pixel.
        shares: The percentiles, as shares between 0 and 1.
    """
    values = pixels.flatten(2).float()
    count = torch.full((len(values), 1), values.shape[2])
    if valid is not None:
        inside = _per_band(valid).flatten(2)
        values = values.masked_fill(~inside, torch.inf)
        count = inside.sum(2).cpu()  # some devices have no float64, which ranks need
    values = values.sort(2).values
    results = []
    for share in shares:
        position = share * (count - 1).double()
        below = position.long()
        indices = torch.stack([below, torch.minimum(below + 1, count - 1)], 2).expand(-1, values.shape[1], -1)
        neighbours = values.gather(2, indices.to(values.device))
        weight = (position - below).to(values)
        results.append(torch.lerp(neighbours[..., 0], neighbours[..., 1], weight))
    return results


class ValueCounts:
    """How often each whole number occurs in each band: all statistics of any number of images, in bounded memory.

    Args:
        bands: Number of bands.
    """

    lowest, highest = -(2**15), 2**16 + 2**15 - 1

    def __init__(self, bands: int) -> None:
        self.counts = torch.zeros(bands, self.highest - self.lowest + 1, dtype=torch.int64)

    @classmethod
    def may_hold(cls, values: torch.Tensor) -> bool:
        """Return whether all values are whole numbers from `lowest` to `highest`."""
        if values.numel() == 0:
            return True
        low, high = values.aminmax()
        # Comparisons with NaN are False.
        within = bool(low >= cls.lowest) and bool(high <= cls.highest)
        return within and (not values.is_floating_point() or bool((values == values.round()).all()))

    def add(self, values: torch.Tensor, valid: torch.Tensor | None) -> None:
        """Count values (C, pixels) for which `may_hold` is true. `valid` (C, pixels) is False where one is left out."""
        for number, band in enumerate(values):
            counted = band if valid is None else band[valid[number]]
            shifted = counted.long() - self.lowest
            self.counts[number] += torch.bincount(shifted, minlength=self.counts.shape[1]).cpu()

    def samples(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return the counted values (C, pixels), filled up to equally many, and a mask that leaves the filling out."""
        values = torch.arange(self.lowest, self.highest + 1)
        bands = [values.repeat_interleave(counts) for counts in self.counts]
        length = max(map(len, bands))
        if length == 0:
            return []
        filled = torch.stack([nn.functional.pad(band, (0, length - len(band))) for band in bands])
        return [(filled, torch.arange(length) < self.counts.sum(1, keepdim=True))]

    def extremes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smallest and the largest value of each band (C,)."""
        present = (self.counts > 0).int()
        last = present.shape[1] - 1 - present.flip(1).argmax(1)
        return (present.argmax(1) + self.lowest).float(), (last + self.lowest).float()

    def percentiles(self, shares: tuple[float, ...]) -> list[torch.Tensor]:
        """Return the percentiles of each band (C,), which equal those of the function `percentiles` to the last bit."""
        ranks = self.counts.cumsum(1)
        count = ranks[:, -1:]
        results = []
        for share in shares:
            position = share * (count - 1).double()
            below = position.long()
            # The value at a rank is the first one whose cumulated count exceeds it.
            indices = torch.cat([below, torch.minimum(below + 1, count - 1)], 1)
            neighbours = (torch.searchsorted(ranks, indices, right=True) + self.lowest).float()
            results.append(torch.lerp(neighbours[:, 0], neighbours[:, 1], (position - below)[:, 0].float()))
        return results

    def mean_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and the standard deviation (of the population) of each band (C,)."""
        counts, values = self.counts.double(), torch.arange(self.lowest, self.highest + 1).double()
        number = counts.sum(1)
        mean = (counts @ values) / number
        variance = torch.stack([row @ (values - centre).square() for row, centre in zip(counts, mean)]) / number
        return mean.float(), variance.sqrt().float()


def mean_std(pixels: torch.Tensor, valid: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the standard deviation (of the population) of each band."""
    mean = valid_mean(pixels, valid)
    return mean, valid_mean((pixels.float() - mean[..., None, None]).square(), valid).sqrt()


def valid_mean(pixels: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean of each band over the valid pixels. Invalid pixels may hold any value, including NaN."""
    if valid is None:
        return pixels.float().mean((2, 3))
    inside = _per_band(valid)
    return torch.where(inside, pixels.float(), 0).sum((2, 3)) / inside.sum((2, 3))


def _per_band(valid: torch.Tensor) -> torch.Tensor:
    """Give a mask (B, H, W) an axis for the bands."""
    return valid.unsqueeze(1) if valid.ndim == 3 else valid


def span(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return the divisor that maps [low, high] to [0, 1]; infinity, which maps all values to 0, if both are equal."""
    return torch.where(high > low, high - low + 1e-10, torch.inf)


def quantise_(values: torch.Tensor) -> torch.Tensor:
    """Clip values to [0, 1] and floor them to 8 bits, without a copy."""
    return values.mul_(255).clamp_(0, 255).floor_().div_(255)
