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
"""Images as they come in, whatever they come as, brought to one form without touching their pixels."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from .bands import L1C_BANDS, resolve_bands
from .products import Offset, linear, offsets_per_band
from .raster_files import is_stac_item
from .rasters import Raster, open_raster


@dataclass(eq=False)
class Chip:
    """An image as it came in, and what is known about it.

    Attributes:
        name: How messages call it: its path, or its place in the list.
        pixels: (C, H, W), in the dtype and on the device of the input.
        bands: Names of the C bands.
        assumed: What was assumed about them; empty where they were named.
        valid: (H, W), True where a pixel may have data; None where all may.
        settled: Whether `valid` is the last word. Otherwise 0 in all bands, `nodata`, NaN and infinity mean no data.
        nodata: Stored value that means no data in any band.
        offset: (C,), still to be added to the digital numbers; None where nothing is.
        offsets: All that is added to each band, by the source's reader too; None where nothing states an offset.
        crs: Coordinate reference system of the source.
        transform: Affine transform of the source's grid.
        tags: Other metadata of the source.
    """

    name: str
    pixels: torch.Tensor
    bands: tuple[str, ...]
    assumed: str = ""
    valid: torch.Tensor | None = None
    settled: bool = False
    nodata: float | None = None
    offset: torch.Tensor | None = None
    offsets: tuple[float, ...] | None = None
    crs: Any = None
    transform: Any = None
    tags: dict[str, str] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Chip":
        """Return the same chip with its tensors on a device."""
        valid = None if self.valid is None else self.valid.to(device)
        offset = None if self.offset is None else self.offset.to(device)
        return replace(self, pixels=self.pixels.to(device), valid=valid, offset=offset)

    def kind(self) -> tuple[Any, ...]:
        """What chips must have in common to go through the same operations as one batch."""
        pixels, optional = self.pixels, (self.valid is None, self.offset is None, self.offsets is None)
        return pixels.shape, pixels.dtype, pixels.device, self.bands, self.settled, self.nodata, *optional


def open_chips(
    images: Any,
    expected: Sequence[str],
    band_names: Sequence[str] | None = None,
    nodata: float | None = None,
    offset: Offset | None = None,
    mask: Any = None,
    longest_side: int | None = None,
) -> list[Chip]:
    """Bring images to a common form.

    Args:
        images: One image or a list: path, URL, TIFF bytes, STAC item, `Raster`, array or tensor (C, H, W), or
            `xarray.DataArray`; also one array or tensor (B, C, H, W).
        expected: Bands that will be used. Of a file only these are read, and B10, which shows an offset.
        band_names: Names of the inputs' bands, where they do not say them or say them wrongly.
        nodata: Stored value that means no data in any band.
        offset: Added to the digital numbers; of a file, in place of what its metadata say.
        mask: (H, W), non-zero where a pixel counts; for a file also what `open_raster` takes. A list for several.
        longest_side: If given, files are read decimated, to at most this many pixels a side.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If something is no image, or its bands cannot be known.
    """
    if not isinstance(images, list | tuple):
        images = list(images) if getattr(images, "ndim", 3) == 4 else [images]
    if len(images) == 0:
        raise ValueError("Expected at least one image, found none.")
    return [
        _open(image, f"image {i}", _Given(expected, band_names, nodata, offset, own_mask), longest_side)
        for i, (image, own_mask) in enumerate(zip(images, one_each(mask, len(images), "mask")))
    ]


def one_each(value: Any, count: int, name: str) -> list[Any]:
    """Return a value for each of `count` images: its own from a list, else the same for all.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"`{name}`: expected one for each of the {count} images, found {len(value)}.")
    return list(value)


def as_tensor(image: Any, name: str) -> torch.Tensor:
    """Return numbers as a tensor that torch can compute with, sharing memory where possible.

    Raises:
        ValueError: If these are no real numbers.
    """
    if not isinstance(image, torch.Tensor):
        array = np.asarray(image)
        if array.dtype.kind not in "buif":
            raise ValueError(
                f"{name}: expected a path, or an array or tensor of numbers, found {type(image).__name__}."
            )
        if not (array.flags.carray and array.dtype.isnative):  # what torch cannot share
            array = np.array(array, array.dtype.newbyteorder("="), order="C")
        image = torch.from_numpy(array)
    if image.is_complex():
        raise ValueError(f"{name}: expected real numbers, found {image.dtype}.")
    return image.to(_WIDER[image.dtype]) if image.dtype in _WIDER else image


# Torch has hardly any arithmetic for these.
_WIDER = {torch.bool: torch.uint8, torch.uint32: torch.int64, torch.uint64: torch.int64}


class _Given(NamedTuple):
    """What the caller says about an image. Attributes as the arguments of `open_chips`."""

    expected: Sequence[str]
    band_names: Sequence[str] | None = None
    nodata: float | None = None
    offset: Offset | None = None
    mask: Any = None


def _open(image: Any, name: str, given: _Given, longest_side: int | None) -> Chip:
    if isinstance(image, str | os.PathLike | bytes | bytearray) or is_stac_item(image):
        name = str(image) if isinstance(image, str | os.PathLike) else name
        by_file = isinstance(given.mask, str | os.PathLike | bytes)
        image = _read(image, given if by_file else given._replace(mask=None), longest_side)
        given = given._replace(band_names=None, nodata=None, offset=None, mask=None if by_file else given.mask)
    if hasattr(image, "pixels") and hasattr(image, "valid"):
        return _from_raster(image, name, given)
    if hasattr(image, "dims") and hasattr(image, "coords"):
        return _from_xarray(image, name, given)
    return _from_array(image, name, given)


def _read(source: Any, given: _Given, longest_side: int | None) -> Raster:
    """Read the bands in use, and B10, as a `Raster`."""

    wanted = dict.fromkeys([*(band for band in given.expected if band != "mean"), "B10"])
    with open_raster(
        source,
        list(wanted),
        mask=given.mask,
        offset=given.offset,
        band_names=given.band_names,
        nodata=given.nodata,
        skip_missing=True,
    ) as reader:
        shrink = max(1.0, max(reader.height, reader.width) / (longest_side or math.inf))
        return reader.read(out_shape=(max(1, round(reader.height / shrink)), max(1, round(reader.width / shrink))))


def _from_raster(raster: Any, name: str, given: _Given) -> Chip:
    chip = _from_array(raster.pixels, name, given._replace(band_names=given.band_names or raster.bands))
    valid = as_tensor(raster.valid, name).bool()
    if given.nodata is not None:
        added = torch.tensor(raster.offsets or (0.0,) * len(chip.bands))
        valid = valid & (chip.pixels - added[:, None, None] != given.nodata).all(0)
    valid = valid if chip.valid is None else valid & chip.valid
    chip.valid, chip.settled, chip.nodata = None if valid.all() else valid, True, None
    if raster.offsets is not None:
        chip.offsets = tuple(np.add(raster.offsets, chip.offsets or 0.0).tolist())
    chip.crs, chip.transform, chip.tags = raster.crs, raster.transform, dict(raster.tags)
    return chip


def _from_xarray(array: Any, name: str, given: _Given) -> Chip:
    axis = next((dim for dim in array.dims if dim in ("band", "bands", "channel")), array.dims[0])
    array = array.transpose(axis, ...)
    labels = np.asarray(array.coords[axis].values if axis in array.coords else [])
    if given.band_names is None and labels.dtype.kind in "UO" and labels.size:
        given = given._replace(band_names=[str(label) for label in labels])
    if given.nodata is None:
        given = given._replace(nodata=array.attrs.get("_FillValue"))
    gain, added = linear(array.attrs.get("scale_factor", 1), array.attrs.get("add_offset", 0), name)
    if given.offset is None and added:
        given = given._replace(offset=added)
    pixels = array.values
    if gain != 1:
        pixels = pixels.astype(np.float32) * np.float32(gain)
        if given.nodata is not None:
            given = given._replace(nodata=float(np.float32(given.nodata) * np.float32(gain)))
    chip = _from_array(pixels, name, given)
    if hasattr(array, "rio"):
        chip.crs, chip.transform = array.rio.crs, array.rio.transform()
    return chip


def _from_array(image: Any, name: str, given: _Given) -> Chip:
    pixels = as_tensor(image, name)
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(
            f"{name}: expected an image of shape (bands, height, width), found {tuple(pixels.shape)}. Move the bands "
            "to the front, and pass several images as a list."
        )
    count = len(pixels)
    if given.band_names:
        bands, assumed = resolve_bands(given.band_names), ""
    else:
        bands, assumed = _assume_bands(name, count, given.expected)
    if len(bands) != count:
        raise ValueError(f"{name}: expected a band name for each of the {count} channels, found {len(bands)}.")
    chip = Chip(name, pixels, bands, assumed, nodata=given.nodata)
    if given.mask is not None:
        mask = as_tensor(given.mask, f"{name}: mask")
        if mask.shape[-2:] != pixels.shape[1:] or mask.numel() != pixels[0].numel():
            raise ValueError(f"{name}: expected a mask of {tuple(pixels.shape[1:])} pixels, found {tuple(mask.shape)}.")
        chip.valid = mask.reshape(pixels.shape[1:]).to(pixels.device).bool()
    if given.offset is not None:
        chip.offsets = offsets_per_band(name, given.offset, bands)
        if any(chip.offsets):
            chip.offset = torch.tensor(chip.offsets, dtype=torch.float32, device=pixels.device)
    return chip


def _assume_bands(name: str, count: int, expected: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the bands that unnamed channels must be, and the assumption that a user should know of."""
    own = tuple(band for band in expected if band != "mean")
    if count == len(own):
        return own, ""
    if count == len(L1C_BANDS):
        return L1C_BANDS, (
            "13 unnamed bands were taken for those of an L1C product, B1 to B8, B8A, B9 to B12. Pass `band_names=` to "
            "say so, or to say otherwise (EuroSAT files store B8A last)"
        )
    raise ValueError(
        f"{name}: {count} unnamed bands may be any: expected {len(own)} ({' '.join(own)}) or the 13 of an L1C product. "
        "Pass `band_names=` with the names of the input's bands, in their order."
    )
