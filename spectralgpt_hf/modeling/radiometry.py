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
"""The radiometry of chips: which pixels have data, what is added to them, which band stands where, and statistics.

Values that look wrong raise a warning that says what to pass, and are never changed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch

from .band_plan import BandPlan, plan_bands
from .bands import L2A_BANDS, SENTINEL_2, Sensor
from .chips import BandNames, Chip, ImageInput, Mask, NoDataError, Offset, open_chips
from .matching import OF_SENTINEL_2, Matching
from .notices import warn
from .pixel_statistics import mean_std, minimum_maximum, percentiles, stack, with_extremes
from .rasters import Raster


# Warnings to raise, each with the names of the images that it is about.
Notices: TypeAlias = dict[str, list[str]]

PERCENTILES = (0.01, 0.99)
# Longest side of the decimated read that statistics are measured on.
STATISTICS_SIDE = 1024

# Values that go through the arithmetic at once: few enough for the last cache of a CPU.
CHUNK_VALUES = 2**22

# Digital numbers are reflectance x 10000 in 16 bits, so that 6.5535 is the largest reflectance.
LARGEST_REFLECTANCE = 6.5535
LARGEST_DIGITAL_NUMBER = 1e6
LARGEST_COMPUTABLE = 1e15  # squares and sums of more leave float32
CIRRUS_WITH_OFFSET = 900
SATURATED = 65535  # in products of digital numbers of 16 bits
# On ten real chips a right offset makes no value negative, and a wrong one up to half of them.
MANY_NEGATIVE = 0.1

TOO_SMALL = (
    "no value exceeds 6.5, which is 10,000 times too small for digital numbers (reflectance x 10000). Nothing was "
    "changed: if these are reflectances from 0 to 1, pass `image * 10000`"
)
TOO_LARGE = (
    "values exceed 1,000,000 in size, 10,000 times too large for digital numbers (reflectance x 10000). Nothing was "
    "changed: divide them before, or pass `nodata=` if such a value means no data"
)
UNSTATED_OFFSET = (
    "the median of B10 is 900 or more, as in L1C products whose values carry an offset of +1000. Nothing was changed: "
    "pass `offset=-1000` to remove it, or `offset=0` if there is none"
)
SATURATION = (
    "some values are 65535, which products store where the detector was saturated. They were left out of the limits of "
    "normalisation: pass `nodata=65535` if they mean no data"
)
NEGATIVE = (
    "the offset makes this share of the valid values negative, as if it had been removed before (harmonised "
    "collections). Nothing was changed: pass `offset=0` if that is so"
)


def measure_statistics(
    images: ImageInput,
    bands: Sequence[str] = L2A_BANDS,
    *,
    band_names: BandNames | Sequence[BandNames | None] | None = None,
    nodata: float | Sequence[float | None] | None = None,
    offset: Offset | Sequence[Offset | None] | None = None,
    mask: Mask | Sequence[Mask] = None,
    missing_bands: str = "error",
    matching: Matching = OF_SENTINEL_2,
) -> dict[str, Any]:
    """Measure one radiometry for a scene, or for images that are to be compared, such as a pair of dates.

    Args:
        images: One image or a list, as in `SpectralGPTImageProcessor.preprocess`. Files are read decimated, to at most
            1024 pixels a side. Images without data are left out, unless none has data.
        bands: Bands to measure; `"mean"` is the mean of the others.
        band_names, nodata, offset, mask: As in `SpectralGPTImageProcessor.preprocess`.
        missing_bands: As the processor's attribute.
        matching: Whose bands these are, and how images of another sensor serve.

    Returns:
        A JSON-able dict: `bands`, and over the valid pixels of all images for each of them `minimum`, `maximum`,
        `percentile_1`, `percentile_99`, `mean` and `std`, in digital numbers; `pixels`, the number measured.

    Raises:
        FileNotFoundError, ValueError: As `SpectralGPTImageProcessor.preprocess`.
    """
    bands = matching.expected.resolve_all(bands, allow_mean=True)
    notices: Notices = defaultdict(list)
    samples: list[torch.Tensor] = []
    masks: list[torch.Tensor | None] = []
    chips = open_chips(images, bands, band_names, nodata, offset, mask, STATISTICS_SIDE, matching)
    for chip in chips:
        plan = plan_bands(chip.name, chip.bands, bands, missing_bands, matching.expected)
        try:
            part = stack_chips([chip], plan, notices)
        except NoDataError:
            if chip is chips[-1] and not samples:
                raise
            continue
        inside = slice(None) if part.valid is None else part.valid[0].flatten()
        samples.append(part.pixels[0].float().flatten(1)[:, inside])
        masks.append(
            None if part.measured is None or part.measured is part.valid else part.measured[0].flatten(1)[:, inside]
        )
    warn_once(notices)
    pixels = torch.cat(samples, 1)[None, :, None]  # (1, C, 1, pixels)
    valid = None
    if any(mask is not None for mask in masks):
        counted = [
            torch.ones_like(sample, dtype=torch.bool) if mask is None else mask for sample, mask in zip(samples, masks)
        ]
        valid = torch.cat(counted, 1)[None, :, None]
    results = (*minimum_maximum(pixels, valid), *percentiles(pixels, valid, PERCENTILES), *mean_std(pixels, valid))
    keys = ("minimum", "maximum", "percentile_1", "percentile_99", "mean", "std")
    per_band = {key: result[0].tolist() for key, result in zip(keys, results)}
    return {"bands": list(bands), "pixels": pixels.shape[-1], **per_band}


@dataclass(eq=False)
class Stack:
    """Chips of one kind, with the bands that a model expects.

    Attributes:
        pixels: (B, C, H, W), in digital numbers.
        valid: (B, H, W), True where a pixel has data; None where all have.
        measured: Where limits are measured, as `valid` or for each band (B, C, H, W): saturated values are left out.
        extremes: Smallest and largest valid value of each band (B, C), where they are known already.
    """

    pixels: torch.Tensor
    valid: torch.Tensor | None
    measured: torch.Tensor | None
    extremes: tuple[torch.Tensor, torch.Tensor] | None


def stack_chips(chips: Sequence[Chip], plan: BandPlan, notices: Notices) -> Stack:
    """Find the valid pixels of some chips that stack, add their offsets, and select and fill bands.

    Args:
        chips: Of one `kind`.
        plan: Of any of them.
        notices: Takes the warnings, with the names of the chips.

    Raises:
        NoDataError: If a chip has no valid pixel.
        ValueError: If it has values that float32 cannot compute with.
    """
    first = chips[0]
    for chip in chips:
        for notice in (chip.assumed, plan.notice):
            if notice:
                notices[notice].append(chip.name)
    raw, extremes = with_extremes(stack([chip.pixels for chip in chips]))
    is_whole = plan.kept == list(range(raw.shape[1]))
    kept = raw if is_whole else raw[:, plan.kept]
    masks = [chip.valid for chip in chips if chip.valid is not None]
    valid = torch.stack(masks) if masks else None
    if not first.settled:
        valid = _find_data(chips, raw, kept, valid, extremes, notices)
    if valid is not None:
        for chip, any_valid in zip(chips, valid.flatten(1).any(1).tolist()):
            if not any_valid:
                raise NoDataError(f"{chip.name}: no pixel of this image has data. Leave it out.")
        extremes = minimum_maximum(raw, valid)
    kept_extremes = list(extremes) if is_whole else [extreme[:, plan.kept] for extreme in extremes]
    _check_radiometry(chips, raw, valid, kept_extremes, notices)
    measured = _leave_out_saturated(chips, plan, kept, valid, kept_extremes[1], notices)

    offsets = [chip.offset[plan.kept] for chip in chips if chip.offset is not None]
    if offsets:
        added = torch.stack(offsets)
        kept = kept.float() + added[..., None, None]
        kept_extremes = [extreme + added for extreme in kept_extremes]  # rounding keeps the order of values
        _check_offsets(chips, kept, valid, kept_extremes[0], notices)
    pixels = plan.apply(kept)
    if measured is not valid or plan.has_mean:
        return Stack(pixels, valid, measured, None)
    low, high = kept_extremes if pixels is kept else [extreme[:, plan.order] for extreme in kept_extremes]
    return Stack(pixels, valid, measured, (low, high))


def settle(
    chip: Chip,
    bands: Sequence[str],
    missing_bands: str,
    notify: bool = True,
    sensor: Sensor = SENTINEL_2,
    may_be_empty: bool = False,
) -> Raster:
    """Return an image in digital numbers, with all offsets added and its valid mask decided, to cut tiles from.

    Args:
        chip: From `open_chips`.
        bands: Bands that will be used; `"mean"` is the mean of the others.
        missing_bands: As the processor's attribute.
        notify: Whether to raise warnings; False where measuring statistics has raised them.
        sensor: Whose bands these are.
        may_be_empty: Whether an image without data, such as one date of a series, is not an error.

    Raises:
        NoDataError: If no pixel has data.
        ValueError: If a band is missing and must not be.
    """
    notices: Notices = defaultdict(list)
    plan = plan_bands(chip.name, chip.bands, bands, missing_bands, sensor)
    valid = np.ones(chip.pixels.shape[1:], bool)
    try:
        stack = stack_chips([chip], plan, notices)
        valid = valid if stack.valid is None else stack.valid[0].cpu().numpy()
    except NoDataError:
        if not may_be_empty:
            raise
        valid[:] = False
    if notify:
        warn_once(notices)
    pixels = chip.pixels.float() if chip.pixels.dtype == torch.bfloat16 else chip.pixels  # which NumPy lacks
    if chip.offset is not None:
        pixels = pixels.float() + chip.offset[:, None, None]
    georeference = (chip.crs, chip.transform, chip.tags, chip.offsets)
    return Raster(pixels.cpu().numpy(), chip.bands, valid, *georeference, sensor=sensor.name)


def stackable_runs(chips: Sequence[Chip], flags: Sequence[bool]) -> Iterator[slice]:
    """Cut a list into runs of neighbours that stack and have equal flags, short enough to stay in the cache."""
    start = 0
    for _, group in groupby(zip(chips, flags), key=lambda pair: (pair[0].kind(), pair[1])):
        stop = start + len(list(group))
        longest = max(1, CHUNK_VALUES // chips[start].pixels.numel())
        for first in range(start, stop, longest):
            yield slice(first, min(first + longest, stop))
        start = stop


def warn_once(notices: Notices) -> None:
    """Warn once for each kind of notice, with the names of up to three images."""
    for message, names in notices.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warn(f"{', '.join(names[:3])}{more}: {message}.")


def _find_data(
    chips: Sequence[Chip],
    raw: torch.Tensor,
    kept: torch.Tensor,
    valid: torch.Tensor | None,
    extremes: tuple[torch.Tensor, torch.Tensor],
    notices: Notices,
) -> torch.Tensor | None:
    """Return where pixels (B, H, W) have data, None for everywhere. Each test runs only if the extremes call for it."""
    tests = []
    if not (extremes[0] > 0).any(1).all():
        tests.append((raw != 0).any(1))
    if not torch.isfinite(extremes[1] - extremes[0]).all():
        tests.append(kept.isfinite().all(1))
        for chip, finite in zip(chips, tests[-1].flatten(1).all(1).tolist()):
            if not finite:
                notices["NaN and infinite values count as pixels without data"].append(chip.name)
    if chips[0].nodata is not None:
        tests.append((kept != chips[0].nodata).all(1))
    for test in tests:
        valid = test if valid is None else valid & test
    return None if valid is None or valid.all() else valid


def _check_radiometry(
    chips: Sequence[Chip],
    raw: torch.Tensor,
    valid: torch.Tensor | None,
    extremes: list[torch.Tensor],
    notices: Notices,
) -> None:
    """Notice values that look wrong, which are never changed: what they should be is for the user to say."""
    low, high = extremes
    for chip, value in zip(chips, torch.maximum(high, -low).amax(1).tolist()):
        if value > LARGEST_COMPUTABLE:
            raise ValueError(f"{chip.name}: values reach {value:.3g}. If these mean no data, pass `nodata=`.")
        if value <= LARGEST_REFLECTANCE:
            notices[TOO_SMALL].append(chip.name)
        elif value >= LARGEST_DIGITAL_NUMBER:
            notices[TOO_LARGE].append(chip.name)
    if "B10" in chips[0].bands and chips[0].offsets is None:
        position = chips[0].bands.index("B10")
        (median,) = percentiles(raw[:, position : position + 1], valid, (0.5,))
        for chip, value in zip(chips, median.squeeze(1).tolist()):
            if value >= CIRRUS_WITH_OFFSET:
                notices[UNSTATED_OFFSET].append(chip.name)


def _check_offsets(
    chips: Sequence[Chip], kept: torch.Tensor, valid: torch.Tensor | None, low: torch.Tensor, notices: Notices
) -> None:
    """Notice offsets that make a large share of the valid values negative: `kept` has them, `low` (B, C) are minima."""
    for number, any_negative in enumerate((low < 0).any(1).tolist()):
        chip = chips[number]
        if any_negative and chip.offsets is not None and min(chip.offsets) < 0:
            negative = kept[number] < 0
            inside = negative[0].numel() if valid is None else int(torch.count_nonzero(valid[number]))
            negative = negative if valid is None else negative & valid[number]
            share = int(torch.count_nonzero(negative)) / (len(negative) * inside)
            if share >= MANY_NEGATIVE:
                notices[NEGATIVE].append(f"{chip.name} ({share:.0%})")


def _leave_out_saturated(
    chips: Sequence[Chip],
    plan: BandPlan,
    kept: torch.Tensor,
    valid: torch.Tensor | None,
    high: torch.Tensor,
    notices: Notices,
) -> torch.Tensor | None:
    """Return where limits are measured: `valid` itself, or (B, C, H, W) without the saturated values.

    Only digital numbers of 16 bits can be saturated: unsigned integers, and what the reader of a file computed from
    them. A band without other valid values keeps the saturated ones.
    """
    if any(chip.saturated is not None for chip in chips):
        flags = [
            torch.zeros_like(chip.pixels, dtype=torch.bool) if chip.saturated is None else chip.saturated
            for chip in chips
        ]
        saturated = torch.stack(flags)[:, plan.kept]
    elif chips[0].pixels.dtype == torch.uint16 and (high == SATURATED).any():
        saturated = kept == SATURATED
    else:
        return valid
    inside = torch.ones_like(saturated[:, :1]) if valid is None else valid.unsqueeze(1)
    found = (saturated & inside).flatten(1).any(1).tolist()
    if not any(found):
        return valid
    for chip, any_saturated in zip(chips, found):
        if any_saturated:
            notices[SATURATION].append(chip.name)
    measured = inside & (plan.apply(saturated.float()) == 0)
    return torch.where(measured.flatten(2).any(2)[..., None, None], measured, inside)
