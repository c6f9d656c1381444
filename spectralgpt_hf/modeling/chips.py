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
"""Bring images of any kind (files, arrays, `xarray`, samples of TorchGeo) to one form. Their pixels are not changed."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch

from .bands import L1C_BANDS, SENTINEL_2, Sensor, own_bands
from .labelled_arrays import join_variables, read_labelled_array
from .matching import OF_SENTINEL_2, Matching, match_tags
from .products import Offset, offsets_per_band
from .raster_files import Source
from .rasters import Raster, RasterReader, open_raster
from .sensors import SENSORS
from .stac_assets import is_stac_item


try:
    from affine import Affine
    from rasterio.crs import CRS
except ImportError:
    # `open_raster` raises an error that names the missing package.
    pass


# Paths, URLs, bytes, mappings, arrays, tensors, `Raster`, and types of libraries that are not imported here.
ImageInput: TypeAlias = Any
BandNames: TypeAlias = Sequence[str]
Mask: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | torch.Tensor | None


class NoDataError(ValueError):
    """An image has no pixel, or no token, with data."""


@dataclass(eq=False)
class Chip:
    """An image with its original pixels and its metadata.

    Attributes:
        name: Name in messages: its path, or its number in the list.
        pixels: (C, H, W), in the dtype and on the device of the input.
        band_names: Names of the C bands.
        assumed: Assumption about the names; empty if they were stated.
        valid: (H, W), True where a pixel may have data; None if all may.
        saturated: (C, H, W), True where the reader of a file found saturated values; None if it found none.
        settled: Whether `valid` is final. Otherwise 0 in all bands, `nodata`, NaN and infinity also mean no data.
        nodata: Stored value that means no data in any band.
        offset: (C,), offset that is still to be added to the digital numbers, or None.
        offsets: Total offset of each band, including that which the reader added; None if nothing states one.
        crs: Coordinate reference system of the source.
        transform: Affine transform of the source's grid.
        tags: Other metadata of the source.
    """

    name: str
    pixels: torch.Tensor
    band_names: tuple[str, ...]
    assumed: str = ""
    valid: torch.Tensor | None = None
    saturated: torch.Tensor | None = None
    settled: bool = False
    nodata: float | None = None
    offset: torch.Tensor | None = None
    offsets: tuple[float, ...] | None = None
    crs: "CRS | None" = None
    transform: "Affine | None" = None
    tags: dict[str, str] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Chip":
        """Return the same chip with its tensors on a device."""
        names = ("pixels", "valid", "saturated", "offset")
        return replace(
            self, **{name: getattr(self, name).to(device) for name in names if getattr(self, name) is not None}
        )

    def kind(self) -> tuple[object, ...]:
        """Return the properties that chips must share to be processed as one batch."""
        pixels, optional = self.pixels, (self.valid is None, self.offset is None, self.offsets is None)
        return pixels.shape, pixels.dtype, pixels.device, self.band_names, self.settled, self.nodata, *optional


def open_chips(
    images: ImageInput,
    expected: Sequence[str],
    band_names: BandNames | Sequence[BandNames | None] | None = None,
    nodata: float | Sequence[float | None] | None = None,
    offset: Offset | Sequence[Offset | None] | None = None,
    mask: Mask | Sequence[Mask] = None,
    longest_side: int | None = None,
    matching: Matching = OF_SENTINEL_2,
) -> list[Chip]:
    """Bring images to a common form.

    Args:
        images: One image or a list, each a path, URL, TIFF bytes, STAC item, `Raster`, array or tensor (C, H, W), PIL
            image, `xarray.DataArray` or `xarray.Dataset`; also one array or tensor (B, C, H, W), and a sample of
            TorchGeo with any of these as `"image"`. Arrays (H, W, C) are recognised by their number of bands. A `Chip`
            is returned as it is.
        expected: Bands that will be used. Only these are read from a file, and B10, which shows an offset.
        band_names: Names of the inputs' bands, if the inputs do not state them or state wrong ones. This and the
            following arguments are one value for all images, or a list with one for each.
        nodata: Stored value that means no data in any band, instead of the value that the input states.
        offset: Number that is added to the digital numbers, instead of the offset that the input states.
        mask: (H, W), non-zero where a pixel counts; for a file also a mask of `open_raster`.
        longest_side: If given, files are read decimated, to at most this many pixels on a side.
        matching: The expected sensor, and whether another one is matched to it.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If an input is not an image, is of another sensor, or the names of its bands are unknown.
    """
    if _is_sample(images):
        images = images["image"]
    if not isinstance(images, list | tuple):
        images = list(images) if getattr(images, "ndim", 3) == 4 else [images]
    count = len(images)
    if count == 0:
        raise ValueError("Expected at least one image, found none.")
    per_image = zip(
        one_each(band_names, count, "band_names", _is_names),
        one_each(nodata, count, "nodata"),
        one_each(offset, count, "offset", lambda value: _is_numbers(value) and len(value) != count),
        one_each(mask, count, "mask"),
    )
    # A list of as many numbers as images may also be meant as one for each band of all images.
    ambiguous = isinstance(offset, list | tuple) and count > 1 and _is_numbers(offset) and len(offset) == count
    shared = count if ambiguous else None
    return [
        _open(image, f"image {i}", _Given(expected, *given, shared, matching), longest_side)
        for i, (image, given) in enumerate(zip(images, per_image))
    ]


def one_each(value: Any, count: int, name: str, is_one: Callable[[Any], bool] = lambda value: False) -> list[Any]:
    """Return a value for each of `count` images: from a list, or the same value for all.

    Args:
        value: One value, or a list with one for each image.
        count: Number of images.
        name: Name of the argument in messages.
        is_one: Returns whether a list is a single value for all images.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(value, list | tuple) or is_one(value):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"`{name}`: expected one for each of the {count} images, found {len(value)}.")
    return list(value)


def as_tensor(image: ImageInput, name: str) -> torch.Tensor:
    """Return numbers as a tensor with which torch can compute. Memory is shared if possible.

    Raises:
        ValueError: If the input does not hold real numbers.
    """
    if not isinstance(image, torch.Tensor):
        array = np.asarray(image)
        if array.dtype.kind not in "buif":
            raise ValueError(
                f"{name}: expected a path, or an array or tensor of numbers, found {type(image).__name__}."
            )
        if not (array.flags.carray and array.dtype.isnative):  # torch cannot share such memory
            array = np.array(array, array.dtype.newbyteorder("="), order="C")
        image = torch.from_numpy(array)
    if image.is_complex():
        raise ValueError(f"{name}: expected real numbers, found {image.dtype}.")
    return image.to(_WIDER[image.dtype]) if image.dtype in _WIDER else image


# Torch has hardly any arithmetic for these dtypes.
_WIDER = {torch.bool: torch.uint8, torch.uint32: torch.int64, torch.uint64: torch.int64}


class _Given(NamedTuple):
    """The arguments of `open_chips` for one image.

    Attributes:
        shared: Length of the list from which `offset` was taken, if the list may also be one offset for each band.
    """

    expected: Sequence[str]
    band_names: BandNames | None = None
    nodata: float | None = None
    offset: Offset | None = None
    mask: Mask = None
    shared: int | None = None
    matching: Matching = OF_SENTINEL_2

    def check_offset(self, name: str, count: int) -> None:
        """Refuse a list of offsets that may be one for each image or one for each of the `count` bands."""
        if self.shared == count:
            raise ValueError(
                f"{name}: {count} offsets for {count} images of {count} bands may be one for each image or one for "
                "each band. Pass them by band name, or a list of lists."
            )


def _open(image: ImageInput, name: str, given: _Given, longest_side: int | None) -> Chip:
    if hasattr(image, "settled"):
        return image
    if _is_sample(image):
        image = image["image"]
    if isinstance(image, str | os.PathLike | bytes | bytearray) or is_stac_item(image):
        name = str(image) if isinstance(image, str | os.PathLike) else name
        by_file = isinstance(given.mask, str | os.PathLike | bytes)
        image = _read(image, name, given if by_file else given._replace(mask=None), longest_side)
        rest = None if by_file else given.mask
        matching = Matching(given.matching.expected)  # reading has settled the rest
        given = given._replace(band_names=None, nodata=None, offset=None, shared=None, mask=rest, matching=matching)
    if hasattr(image, "pixels") and hasattr(image, "valid"):
        return _from_raster(image, name, given)
    if hasattr(image, "data_vars"):
        image = join_variables(image, name, given.matching.sensor or given.matching.expected)
    if hasattr(image, "dims") and hasattr(image, "coords"):
        return _from_xarray(image, name, given)
    if hasattr(image, "getbands") and given.band_names is None:
        raise ValueError(
            f"{name}: a picture of mode {image.mode} holds colours for a display, not digital numbers. Pass the file "
            "or the array that it was made from, in a pipeline to one of the tasks multispectral-feature-extraction, "
            "multispectral-image-classification and so on. If these are digital numbers, name them (`band_names`)."
        )
    return _from_array(image, name, given, saturated=getattr(image, "saturated", None))


def _is_sample(image: ImageInput) -> bool:
    """Return whether an image is a sample of TorchGeo, and not a STAC item."""
    return isinstance(image, Mapping) and "image" in image and "assets" not in image and not hasattr(image, "data_vars")


def _is_names(value: Sequence[object]) -> bool:
    return all(isinstance(name, str) for name in value)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(number, Real) for number in value)


def open_image(
    source: Source,
    expected: Sequence[str],
    matching: Matching,
    band_names: BandNames | None = None,
    nodata: float | None = None,
    offset: Offset | None = None,
    mask: Source | None = None,
) -> RasterReader:
    """Open the bands of a file that a model expects. B10 of Sentinel-2 is read beside them, because it shows an offset.

    Arguments and errors are those of `open_chips`, for one file.
    """
    return open_raster(
        source,
        own_bands(expected),
        resolution=matching.expected.resolution,
        mask=mask,
        offset=offset,
        band_names=band_names,
        nodata=nodata,
        skip_missing=True,
        beside=("B10",) if matching.expected.name == SENTINEL_2.name else (),
        sensor=matching.sensor,
        match=matching.match,
        expected=matching.expected,
    )


def read_decimated(reader: RasterReader, longest_side: int | None) -> Raster:
    """Read a source at a size of at most `longest_side` pixels on a side; None reads all pixels."""
    shrink = max(1.0, max(reader.height, reader.width) / (longest_side or math.inf))
    return reader.read(out_shape=(max(1, round(reader.height / shrink)), max(1, round(reader.width / shrink))))


def chip_of(raster: Raster, name: str, expected: Sequence[str], sensor: Sensor) -> Chip:
    """Return pixels that `open_image` has read as a chip.

    Args:
        raster: The pixels.
        name: Name of the source in messages.
        expected: Bands that the model expects.
        sensor: Sensor of these bands.
    """
    return _from_raster(raster, name, _Given(expected, matching=Matching(sensor)))


def _read(source: Source, name: str, given: _Given, longest_side: int | None) -> Raster:
    mask = cast(Source | None, given.mask)
    options = (given.expected, given.matching, given.band_names, given.nodata, given.offset, mask)
    with open_image(source, *options) as reader:
        given.check_offset(name, len(reader.band_names or ()))
        return read_decimated(reader, longest_side)


def _from_raster(raster: Any, name: str, given: _Given) -> Chip:
    own = getattr(raster, "sensor", SENTINEL_2.name)
    named = given._replace(band_names=given.band_names or raster.band_names)
    sensor = None if given.band_names else SENSORS.get(own, Sensor(own))
    chip = _from_array(raster.pixels, name, named, sensor, getattr(raster, "saturated", None), raster.offsets)
    valid = as_tensor(raster.valid, name).bool()
    if given.nodata is not None:
        added = torch.tensor(chip.offsets or (0.0,) * len(chip.band_names))
        added = added if chip.offset is None else added - chip.offset
        used = [number for number, band in enumerate(chip.band_names) if band in given.expected]
        valid = valid & (chip.pixels - added[:, None, None] != given.nodata)[used].all(0)
    valid = valid if chip.valid is None else valid & chip.valid
    chip.valid, chip.settled, chip.nodata = None if valid.all() else valid, True, None
    chip.crs, chip.transform, chip.tags = raster.crs, raster.transform, dict(raster.tags) | chip.tags
    return chip


def _from_xarray(array: Any, name: str, given: _Given) -> Chip:
    own = read_labelled_array(array, name)
    if given.nodata is None:
        given = given._replace(nodata=own.nodata)
    if given.nodata is not None and own.gain != 1:
        given = given._replace(nodata=float(np.float32(given.nodata) * np.float32(own.gain)))
    offset = own.offset if given.offset is None else given.offset
    found = own.sensor if given.band_names is None else None
    given = given._replace(band_names=given.band_names or own.band_names, offset=offset)
    chip = _from_array(own.pixels, name, given, found)
    chip.crs, chip.transform = own.crs, own.transform
    return chip


def _from_array(
    image: ImageInput,
    name: str,
    given: _Given,
    found: Sensor | None = None,
    saturated: ImageInput | None = None,
    added: Sequence[float] | None = None,
) -> Chip:
    """Return the chip of an array. `saturated` marks values as in `Raster`; `added` is the reader's offset per band."""
    pixels = as_tensor(image, name)
    saturated = None if saturated is None else as_tensor(saturated, name).bool()
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(
            f"{name}: expected an image of shape (bands, height, width), found {tuple(pixels.shape)}. Pass several "
            "images as a list."
        )
    matching = given.matching
    counts = {len(given.band_names)} if given.band_names else {len(own_bands(given.expected))}
    if not given.band_names and matching.expected.name == SENTINEL_2.name:
        counts.add(len(L1C_BANDS))
    if len(pixels) not in counts and pixels.shape[2] in counts:
        pixels = pixels.permute(2, 0, 1).contiguous()  # stored as (height, width, bands)
    count = len(pixels)
    sensor = matching.sensor_of(found, name)
    if given.band_names:
        bands, assumed = sensor.resolve_all(given.band_names), ""
    elif matching.sensor is not None and count == len(sensor.bands):
        bands, assumed = sensor.band_names, ""
    else:
        bands, assumed = _assume_bands(name, count, given.expected, matching)
    if len(bands) != count:
        raise ValueError(
            f"{name}: expected a name for each of the {count} bands (`band_names`), found {len(bands)}: "
            f"{' '.join(bands)}."
        )
    given.check_offset(name, count)
    tags: dict[str, str] = {}
    served = matching.serve(sensor, bands, name)
    if served is not None:
        tags = match_tags(sensor, bands, served)
        positions = list(served.values())
        pixels, bands = pixels[positions], tuple(served)
        saturated = None if saturated is None else saturated[positions]
        added = None if added is None else [added[position] for position in positions]
        sensor = matching.expected
    chip = Chip(name, pixels, bands, assumed, saturated=saturated, nodata=given.nodata, tags=tags)
    chip.offsets = None if added is None else tuple(added)
    if given.mask is not None:
        mask = as_tensor(given.mask, f"{name}: mask")
        if mask.shape[-2:] != pixels.shape[1:] or mask.numel() != pixels[0].numel():
            raise ValueError(f"{name}: expected a mask of {tuple(pixels.shape[1:])} pixels, found {tuple(mask.shape)}.")
        chip.valid = mask.reshape(pixels.shape[1:]).to(pixels.device).bool()
    if given.offset is not None:
        offsets = offsets_per_band(name, given.offset, bands, sensor=sensor)
        chip.offsets = tuple(np.add(offsets, added or 0.0).tolist())
        if any(offsets):
            chip.offset = torch.tensor(offsets, dtype=torch.float32, device=pixels.device)
    return chip


def _assume_bands(name: str, count: int, expected: Sequence[str], matching: Matching) -> tuple[tuple[str, ...], str]:
    """Return the names to assume for unnamed bands, and a text for the user about this assumption."""
    own = own_bands(expected)
    is_msi = matching.expected.name == SENTINEL_2.name
    advice = "Pass `band_names=` to confirm the order or to state another one"
    if count == len(own):
        return own, f"{count} unnamed bands are assumed to be {' '.join(own)}, in this order. {advice}"
    if is_msi and count == len(L1C_BANDS):
        return L1C_BANDS, (
            "13 unnamed bands are assumed to be those of an L1C product, B1 to B8, B8A, B9 to B12, in this order. "
            f"{advice} (EuroSAT files store B8A last)"
        )
    raise ValueError(
        f"{name}: {count} unnamed bands may be any: expected {len(own)} ({' '.join(own)})"
        f"{' or the 13 of an L1C product' if is_msi else ''}. "
        "Pass `band_names=` with the names of the input's bands, in their order."
    )
