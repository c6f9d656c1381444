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
"""Where pixels go: resizing and padding to whole tokens, which tokens have data, and the way back to the source."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .chips import as_tensor
from .rasters import Raster, read_raster


IGNORE_INDEX = 255


class Sizes(NamedTuple):
    """(height, width) of the source, after resizing, after the centre crop, and after padding."""

    original: tuple[int, ...]
    resized: tuple[int, ...]
    cropped: tuple[int, ...]
    padded: tuple[int, ...]

    @property
    def crop(self) -> tuple[slice, slice]:
        """Rows and columns of the resized image that the centre crop keeps."""
        starts = [(whole - kept) // 2 for whole, kept in zip(self.resized, self.cropped)]
        rows, columns = (slice(start, start + kept) for start, kept in zip(starts, self.cropped))
        return rows, columns


@dataclass(eq=False)
class PreprocessingReport:
    """What was assumed of an image and done to it; post-processing takes it to find back to the source's grid.

    Attributes:
        source: The image's path, or its place in the list.
        band_names: Bands found in the image.
        assumed: What was assumed about them; empty where they were named.
        bands: Bands of `pixel_values`.
        filled: What stands in for each missing band.
        offsets: What was added to each of `band_names`; None where nothing stated an offset.
        normalization: The name of the rule.
        low, scale: (C,) each: values are (pixel - low) / scale, for sigma_clip then clipped and floored to 8 bits.
        valid: (H, W) of the source, True where a pixel has data; None where all have.
        tokens: (N,), 0 where a token has no data; None where all have.
        sizes: (height, width) of the source, after resizing, after the centre crop, and after padding.
        crs, transform: Georeference of the source; None without one.
        tags: Metadata of the source.
        units: Of `offsets`, `low` and `scale`.
    """

    source: str
    band_names: tuple[str, ...]
    assumed: str
    bands: tuple[str, ...]
    filled: dict[str, str]
    offsets: tuple[float, ...] | None
    normalization: str
    low: torch.Tensor
    scale: torch.Tensor
    valid: torch.Tensor | None
    tokens: torch.Tensor | None
    sizes: Sizes
    crs: Any
    transform: Any
    tags: dict[str, str]
    units: str = "digital numbers (reflectance x 10000)"

    @property
    def valid_share(self) -> float:
        """Share of the source's pixels that have data."""
        return 1.0 if self.valid is None else self.valid.float().mean().item()


def fit_pixels(values: torch.Tensor, share: torch.Tensor, sizes: Sizes, target: torch.Tensor) -> torch.Tensor:
    """Resize images (bicubic, antialiased), crop their centre, and pad them at the bottom and right.

    The padding is the mean of each band.

    Args:
        values: (B, C, H, W) of the source, filled where there is no data.
        share: (B, H, W), which share of each pixel has data.
        sizes: Of these images.
        target: (B, C, H, W), takes the result.

    Returns:
        The share of each pixel of the result that has data.
    """
    mean = values.mean((2, 3), keepdim=True)
    if sizes.resized != sizes.original:
        values = nn.functional.interpolate(values, sizes.resized, mode="bicubic", antialias=True)
        share = nn.functional.interpolate(share[:, None], sizes.resized, mode="bilinear", antialias=True)[:, 0]
    height, width = sizes.cropped
    target[:, :, :height, :width] = values[:, :, *sizes.crop]
    target[:, :, height:] = mean
    target[:, :, :, width:] = mean
    return nn.functional.pad(share[:, *sizes.crop], (0, sizes.padded[1] - width, 0, sizes.padded[0] - height))


def fit_labels(labels: Any, name: str, sizes: Sizes, valid: torch.Tensor | None) -> torch.Tensor:
    """Bring a map of labels to the geometry of its image, by nearest neighbour; 255 where there is no data.

    Args:
        labels: (H, W) or (1, H, W), or the path of a file.
        name: Of the image, for messages.
        sizes: Of the image.
        valid: (H, W) of the source, True where a pixel has data; None where all have.

    Raises:
        ValueError: If the map has another size than its image.
    """
    if isinstance(labels, str | os.PathLike | bytes):
        labels = read_raster(labels, resolution=None).pixels
    labels = as_tensor(labels, name).long()
    if labels.shape[-2:] != sizes.original or labels.shape[:-2].numel() != 1:
        raise ValueError(
            f"{name}: expected a segmentation map of the image's size, {sizes.original}, found {tuple(labels.shape)}."
        )
    labels = labels.reshape(sizes.original)
    if valid is not None:
        labels = labels.masked_fill(~valid.to(labels.device), IGNORE_INDEX)
    # Labels are small integers, which float32 holds exactly.
    resized = nn.functional.interpolate(labels[None, None].float(), sizes.resized, mode="nearest-exact")[0, 0]
    fitted = labels.new_full(sizes.padded, IGNORE_INDEX)
    fitted[: sizes.cropped[0], : sizes.cropped[1]] = resized[sizes.crop].long()
    return fitted


def token_validity(share: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Return which places of the token grid have data in at least half of their pixels.

    Args:
        share: (B, H, W), which share of each pixel has data; H and W are multiples of `patch_size`.
        patch_size: Pixels on a side of a token.

    Returns:
        (B, H / patch_size, W / patch_size), bool.
    """
    # Half of an interpolated mask is half up to rounding.
    return nn.functional.avg_pool2d(share.unsqueeze(1), patch_size).squeeze(1) > 0.5 - 1e-4


def to_source_grids(
    logits: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None,
    reports: Sequence[PreprocessingReport] | None,
) -> Iterator[torch.Tensor]:
    """Yield the scores (K, H, W) of each image at the size of its source (padding cropped off), or of its target.

    Around a centre crop, scores repeat those at its edge; `georeference` marks these pixels as invalid.

    Raises:
        ValueError: If there is not one report or target for each image.
    """
    for given in (target_sizes, reports):
        if given is not None and len(given) != len(logits):
            raise ValueError(f"Expected one size or report for each of the {len(logits)} images, found {len(given)}.")
    for i, scores in enumerate(logits.float()):
        if reports is not None:
            sizes = reports[i].sizes
            kept = _resize(scores, sizes.padded)[:, : sizes.cropped[0], : sizes.cropped[1]]
            yield _resize(_around_crop(kept, sizes), sizes.original)
        else:
            yield scores if target_sizes is None else _resize(scores, target_sizes[i])


def georeference(labels: torch.Tensor, report: PreprocessingReport) -> Raster:
    """Return a map of labels (H, W) as a raster on the grid of the report's image.

    It is valid where that image has data, and within its centre crop.
    """
    pixels = labels[None].cpu().numpy().astype(np.uint8 if labels.max() < 256 else np.uint16)
    valid = np.ones(labels.shape, bool) if report.valid is None else report.valid.cpu().numpy()
    valid = valid & _within_crop(report.sizes)
    tags = {**report.tags, "normalization": report.normalization}
    return Raster(pixels, None, valid, report.crs, report.transform, tags, None)


def _around_crop(scores: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Bring scores (K, h, w) of a centre crop to the size of the resized image."""
    rows, columns = sizes.crop
    height, width = sizes.resized
    margins = (columns.start, width - columns.stop, rows.start, height - rows.stop)
    return nn.functional.pad(scores[None], margins, mode="replicate")[0] if any(margins) else scores


def _within_crop(sizes: Sizes) -> np.ndarray:
    """Return which pixels of the source (H, W) have their centre within the centre crop."""
    inside = []
    for kept, resized, original in zip(sizes.crop, sizes.resized, sizes.original):
        centres = (np.arange(original) + 0.5) * resized / original
        inside.append((centres >= kept.start) & (centres < kept.stop))
    return inside[0][:, None] & inside[1]


def _resize(scores: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if scores.shape[1:] == tuple(size):
        return scores
    return nn.functional.interpolate(scores[None], tuple(size), mode="bilinear", align_corners=False)[0]
