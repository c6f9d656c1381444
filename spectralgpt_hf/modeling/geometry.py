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
"""The geometry of preprocessing: resizing, cropping and padding to whole tokens, and the tokens that have data."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import nn

from .chips import Chip, NoDataError, as_tensor
from .configuration_spectralgpt import IGNORE_INDEX
from .matching import matched_bands
from .rasters import read_raster


try:
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS
except ImportError:
    rasterio = None

Labels: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | torch.Tensor


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
    """The assumptions about an image and the steps of its preprocessing. Post-processing uses it to restore the grid.

    Attributes:
        source: The image's path, or its number in the list.
        band_names: Bands found in the image.
        assumed: Assumption about the band names; empty if they were stated.
        bands: Bands of `pixel_values`.
        filled: For each missing band, the band that replaces it, or "mean".
        offsets: Offset that was added to each of `band_names`; None if nothing stated an offset.
        normalization: Name of the rule of normalisation.
        low, scale: (C,) each: values are (pixel - low) / scale, for sigma_clip then clipped and floored to 8 bits.
        valid: (H, W) of the source, True where a pixel has data; None if all have.
        tokens: (N,), 0 where a token has no data; None if all have.
        sizes: (height, width) of the source, after resizing, after the centre crop, and after padding.
        crs, transform: Georeference of the source, or None.
        tags: Metadata of the source.
        units: Units of `offsets`, `low` and `scale`.
        matched: For each of `bands` that was matched by wavelength, the band of the other sensor and its wavelength.
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
    crs: "CRS | None"
    transform: "Affine | None"
    tags: dict[str, str]
    units: str = "digital numbers (reflectance x 10000)"
    matched: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, chip: Chip, **steps: Any) -> "PreprocessingReport":
        """Return the report on a chip, given the attributes that the chip does not have."""
        return cls(
            source=chip.name,
            band_names=chip.band_names,
            assumed=chip.assumed,
            offsets=chip.offsets,
            crs=chip.crs,
            transform=chip.transform,
            tags=chip.tags,
            matched=matched_bands(chip.tags),
            **steps,
        )

    @property
    def valid_share(self) -> float:
        """Share of the source's pixels that have data."""
        return 1.0 if self.valid is None else self.valid.float().mean().item()


def common_size(names: Sequence[str], sizes: Sequence[Sizes]) -> tuple[int, ...]:
    """Return the (height, width) that all images of a batch have after padding.

    Raises:
        ValueError: If two differ; the message has their names.
    """
    for name, size in zip(names, sizes):
        if size.padded != sizes[0].padded:
            raise ValueError(
                f"The images of a batch must share one size, but {names[0]} is {sizes[0].original[0]} x "
                f"{sizes[0].original[1]} px and {name} {size.original[0]} x {size.original[1]} px. Set a `size` "
                "to resize to, or call once for each size (the pipelines group images by size)."
            )
    return sizes[0].padded


def plan_sizes(
    name: str,
    original: Sequence[int],
    size: Mapping[str, int] | None,
    crop_size: Mapping[str, int] | None,
    patch_size: int,
    do_pad: bool,
) -> Sizes:
    """Return the sizes of an image after each step of preprocessing.

    Args:
        name: Name of the image in messages.
        original: Height and width of the source.
        size: `height` and `width` to resize to; None for the source's own.
        crop_size: `height` and `width` of the centre crop; None for none.
        patch_size: Height and width of a token, in pixels.
        do_pad: Whether images are padded to whole tokens.

    Raises:
        ValueError: If the crop is larger than the image, or the result needs padding and `do_pad` is False.
    """
    resized = tuple(original) if size is None else (size["height"], size["width"])
    cropped = resized if crop_size is None else (crop_size["height"], crop_size["width"])
    if cropped[0] > resized[0] or cropped[1] > resized[1]:
        raise ValueError(
            f"{name}: expected an image of at least {cropped[0]} x {cropped[1]} px (`crop_size`), found "
            f"{resized[0]} x {resized[1]}. Set a larger `size` to resize to, or `do_center_crop=False`."
        )
    padded = tuple(-(-side // patch_size) * patch_size for side in cropped)
    if padded != cropped and not do_pad:
        raise ValueError(
            f"{name}: height and width must be multiples of {patch_size} px (`patch_size`), got {cropped[0]} x "
            f"{cropped[1]}. Set `do_pad=True`, or a `size` to resize to."
        )
    return Sizes(tuple(original), resized, cropped, padded)


def fit_pixels(values: torch.Tensor, share: torch.Tensor, sizes: Sizes, target: torch.Tensor) -> torch.Tensor:
    """Resize images (bicubic, antialiased), crop their centre, and pad them at the bottom and right.

    The padding is the mean of each band.

    Args:
        values: (B, C, H, W) of the source, filled where there is no data.
        share: (B, H, W), the share of each pixel that has data.
        sizes: Sizes of these images.
        target: (B, C, H, W), to which the result is written.

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


def fit_labels(
    labels: Labels, name: str, sizes: Sizes, valid: torch.Tensor | None, ignore_index: int = IGNORE_INDEX
) -> torch.Tensor:
    """Bring a map of labels to the geometry of its image, by nearest neighbour.

    Args:
        labels: (H, W) or (1, H, W), or the path or bytes of a file.
        name: Name of the image in messages.
        sizes: Sizes of the image.
        valid: (H, W) of the source, True where a pixel has data; None if all have.
        ignore_index: Label of pixels without data, of padding, and of the nodata value of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the map has another size than its image.
    """
    if isinstance(labels, str | os.PathLike | bytes):
        labels = _read_labels(labels, ignore_index)
    labels = as_tensor(labels, f"{name}: segmentation map").long()
    if labels.shape[-2:] != sizes.original or labels.shape[:-2].numel() != 1:
        raise ValueError(
            f"{name}: expected a segmentation map of the image's size, {sizes.original}, found {tuple(labels.shape)}."
        )
    labels = labels.reshape(sizes.original)
    if valid is not None:
        labels = labels.masked_fill(~valid.to(labels.device), ignore_index)
    # Labels are small integers, which float32 holds exactly.
    resized = nn.functional.interpolate(labels[None, None].float(), sizes.resized, mode="nearest-exact")[0, 0]
    fitted = labels.new_full(sizes.padded, ignore_index)
    fitted[: sizes.cropped[0], : sizes.cropped[1]] = resized[sizes.crop].long()
    return fitted


def token_validity(share: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Return whether each token has data: at least half of its pixels must have.

    Args:
        share: (..., H, W), the share of each pixel that has data, or a valid mask; H and W are multiples of
            `patch_size`.
        patch_size: Height and width of a token, in pixels.

    Returns:
        (..., H / patch_size, W / patch_size), bool.
    """
    pixels = share.reshape(-1, 1, *share.shape[-2:]).float()
    # An interpolated mask may miss one half by rounding.
    tokens = nn.functional.avg_pool2d(pixels, patch_size) > 0.5 - 1e-4
    return tokens.reshape(*share.shape[:-2], *tokens.shape[-2:])


def count_tokens(pixel_values: torch.Tensor, patch_size: int, spectral_patch_size: int) -> int:
    """Return the number N of tokens of an image in `pixel_values` (..., C, H, W)."""
    num_channels, height, width = pixel_values.shape[-3:]
    return -(-num_channels // spectral_patch_size) * (height // patch_size) * (width // patch_size)


def token_masks(
    names: Sequence[str],
    lacking: Sequence[bool],
    share: torch.Tensor | None,
    pixel_values: torch.Tensor,
    patch_size: int,
    spectral_patch_size: int,
) -> list[torch.Tensor | None]:
    """Return a mask of the tokens (N,), int64, of each of B images, 1 where a token has data; None if all tokens have.

    Args:
        names: Names of the images in messages.
        lacking: Whether the images lack each band. A group that lacks all of its bands has no data.
        share: (B, H, W), the share of each pixel that has data; None if all pixels have data.
        pixel_values: (B, C, H, W).
        patch_size: Pixels on a side of a token.
        spectral_patch_size: Bands of a token.

    Raises:
        NoDataError: If an image has no token with data.
    """
    if share is None and not any(lacking):
        return [None] * len(names)
    lacking = [*lacking, *[True] * (-len(lacking) % spectral_patch_size)]
    groups = ~torch.tensor(lacking, device=pixel_values.device).view(-1, spectral_patch_size).all(1)
    if share is None:
        share = torch.ones_like(pixel_values[:, 0])
    positions = token_validity(share, patch_size).flatten(1)
    for name, any_position in zip(names, positions.any(1).tolist()):
        if not any_position:
            raise NoDataError(
                f"{name}: no token of {patch_size} x {patch_size} px has data in half of its pixels. Leave this image "
                "out."
            )
    tokens = (groups[:, None] & positions[:, None]).flatten(1)
    return [None if mask.all() else mask.long() for mask in tokens]


def _read_labels(source: str | os.PathLike[str] | bytes, ignore_index: int) -> torch.Tensor:
    """Read a map of labels (1, H, W), with `ignore_index` where the file declares nodata."""
    raster = read_raster(source, resolution=None)
    labels = torch.from_numpy(raster.pixels.astype(np.int64))
    nodata = None
    # Arrays and folders, which rasterio cannot open, declare no nodata value.
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with suppress(rasterio.errors.RasterioIOError), rasterio.open(file) as dataset:
        nodata = dataset.nodata
    # In images, 0 always means no data. In maps of labels it is a class, unless the file declares it as nodata.
    declared = torch.from_numpy(~raster.valid) & ((labels != 0) | (nodata == 0))
    return labels.masked_fill(declared, ignore_index)
