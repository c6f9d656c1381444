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
"""The radiometry of chips: valid pixels, offsets, the selection of bands, and statistics.

Values that look wrong cause a warning that says what to pass. They are never changed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch

from .band_plan import BandPlan, plan_bands
from .bands import L2A_BANDS, SENTINEL_2, Sensor
from .chips import BandNames, Chip, ImageInput, Mask, NoDataError, Offset, open_chips
from .matching import OF_SENTINEL_2, Matching
from .notices import warn
from .pixel_statistics import (
    Statistics,
    ValueCounts,
    mean_std,
    minimum_maximum,
    percentiles,
    stack,
    with_extremes,
)
from .products import SATURATED
from .rasters import Raster


# Warnings to raise, each with the names of the images that it concerns.
Notices: TypeAlias = dict[str, list[str]]

PERCENTILES = (0.01, 0.99)
# Longest side of the decimated image on which statistics are measured.
STATISTICS_SIDE = 1024

# Number of values that are computed at once. They fit in the last cache of a CPU.
CHUNK_VALUES = 2**22

# Digital numbers are reflectance x 10000 in 16 bits, so that 6.5535 is the largest reflectance.
LARGEST_REFLECTANCE = 6.5535
LARGEST_DIGITAL_NUMBER = 1e6
LARGEST_COMPUTABLE = 1e15  # squares and sums of larger values overflow float32
CIRRUS_WITH_OFFSET = 900
# On ten real chips a correct offset makes no value negative, and a wrong one up to half of them.
MANY_NEGATIVE = 0.1

TOO_SMALL = (
    "no value exceeds 6.5, which is 10,000 times too small for digital numbers (reflectance x 10000). The values were "
    "not changed: if these are reflectances from 0 to 1, pass `image * 10000`"
)
TOO_LARGE = (
    "absolute values exceed 1,000,000, which is 10,000 times too large for digital numbers (reflectance x 10000). The "
    "values were not changed: divide them before, or pass `nodata=` if such a value means no data"
)
UNSTATED_OFFSET = (
    "the median of B10 is 900 or more, as in L1C products whose values have an offset of +1000. The values were not "
    "changed: pass `offset=-1000` to remove it, or `offset=0` if there is none"
)
SATURATION = (
    f"some values are {SATURATED}, which products store where the detector was saturated. They were left out of the "
    f"limits of normalisation: pass `nodata={SATURATED}` if they mean no data"
)
NEGATIVE = (
    "the offset makes this share of the valid values negative, as if it had been removed before (harmonised "
    "collections). The values were not changed: pass `offset=0` if they are harmonised"
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
) -> Statistics:
    """Measure statistics of a scene, or of several images together, such as a pair of dates.

    Args:
        images: One image or a list, as in `SpectralGPTImageProcessor.preprocess`. Files are read decimated, to at most
            1024 pixels on a side. Images without data are left out, unless none has data.
        bands: Bands to measure; `"mean"` is the mean of the others.
        band_names, nodata, offset, mask: As in `SpectralGPTImageProcessor.preprocess`.
        missing_bands: As the attribute of the processor.
        matching: Sensor of the bands, and whether images of another sensor are matched to it.

    Returns:
        A dict that JSON can hold: `bands`, and for each of them over the valid pixels of all images `minimum`,
        `maximum`, `percentile_1`, `percentile_99`, `mean` and `std`, in digital numbers; `pixels`, their number.

    Raises:
        FileNotFoundError, ValueError: As `SpectralGPTImageProcessor.preprocess`.
    """
    bands = matching.expected.resolve_all(bands, allow_mean=True)
    notices: Notices = defaultdict(list)
    kept = _Kept(len(bands))
    chips = open_chips(images, bands, band_names, nodata, offset, mask, STATISTICS_SIDE, matching)
    for chip in chips:
        plan = plan_bands(chip.name, chip.band_names, bands, missing_bands, matching.expected)
        try:
            part = stack_chips([chip], plan, notices)
        except NoDataError:
            if chip is chips[-1] and not kept.pixels:
                raise
            continue
        inside = slice(None) if part.valid is None else part.valid[0].flatten()
        counted = None if part.measured is None or part.measured is part.valid else part.measured[0].flatten(1)
        kept.add(part.pixels[0].flatten(1)[:, inside], None if counted is None else counted[:, inside])
    warn_once(notices)
    return {"bands": list(bands), "pixels": kept.pixels, **kept.statistics()}


class _Kept:
    """Pixels that statistics are measured on: values, or the number of each value where these are fewer.

    Attributes:
        pixels: Number of pixels.
    """

    def __init__(self, bands: int) -> None:
        self.pixels = 0
        self._samples: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._counts = ValueCounts(bands)

    def add(self, values: torch.Tensor, valid: torch.Tensor | None) -> None:
        """Add values (C, pixels), of which those count where `valid` is true or None."""
        self.pixels += values.shape[1]
        self._samples.append((values, valid))
        if self.pixels > self._counts.counts.shape[1] and all(ValueCounts.may_hold(each) for each, _ in self._samples):
            for sample in self._samples:
                self._counts.add(*sample)
            self._samples.clear()

    def statistics(self) -> Statistics:
        """Return the statistics apart from `bands` and `pixels`."""
        if self.pixels and not self._samples:
            minimum, maximum = self._counts.extremes()
            percentile_1, percentile_99 = self._counts.percentiles(PERCENTILES)
            mean, std = self._counts.mean_std()
        else:
            minimum, maximum, percentile_1, percentile_99, mean, std = self._of_samples()
        return {
            "minimum": minimum.tolist(),
            "maximum": maximum.tolist(),
            "percentile_1": percentile_1.tolist(),
            "percentile_99": percentile_99.tolist(),
            "mean": mean.tolist(),
            "std": std.tolist(),
        }

    def _of_samples(self) -> list[torch.Tensor]:
        samples = [*self._counts.samples(), *self._samples]
        values = torch.cat([sample.float() for sample, _ in samples], 1)[None, :, None]  # (1, C, 1, pixels)
        valid = None
        if any(mask is not None for _, mask in samples):
            counted = [torch.ones_like(sample, dtype=torch.bool) if mask is None else mask for sample, mask in samples]
            valid = torch.cat(counted, 1)[None, :, None]
        found = [
            *minimum_maximum(values, valid),
            *percentiles(values, valid, PERCENTILES),
            *mean_std(values, valid),
        ]
        return [each[0] for each in found]


@dataclass(eq=False)
class Stack:
    """Chips of one kind, with the bands that a model expects.

    Attributes:
        pixels: (B, C, H, W), in digital numbers.
        valid: (B, H, W), True where a pixel has data; None if all have.
        measured: Where limits are measured, as `valid`, or (B, C, H, W) if some values are saturated and left out.
        extremes: Smallest and largest valid value of each band (B, C), if they are known already.
    """

    pixels: torch.Tensor
    valid: torch.Tensor | None
    measured: torch.Tensor | None
    extremes: tuple[torch.Tensor, torch.Tensor] | None


def stack_chips(chips: Sequence[Chip], plan: BandPlan, notices: Notices) -> Stack:
    """Find the valid pixels of chips, add their offsets, and select and fill their bands.

    Args:
        chips: Chips of one `kind`.
        plan: Plan of the bands of each of them.
        notices: Warnings, to which those of the chips are added.

    Raises:
        NoDataError: If a chip has no valid pixel.
        ValueError: If a chip has values that are too large for float32.
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
    """Return an image in digital numbers, with all offsets added and its final valid mask, from which tiles are cut.

    Args:
        chip: Image from `open_chips`.
        bands: Bands that will be used; `"mean"` is the mean of the others.
        missing_bands: As the attribute of the processor.
        notify: Whether to raise warnings; False if they were raised when statistics were measured.
        sensor: Sensor of the bands.
        may_be_empty: Whether an image without data, such as one date of a series, is not an error.

    Raises:
        NoDataError: If no pixel has data.
        ValueError: If a band is missing and `missing_bands` is `"error"`.
    """
    notices: Notices = defaultdict(list)
    plan = plan_bands(chip.name, chip.band_names, bands, missing_bands, sensor)
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
    return Raster(pixels.cpu().numpy(), chip.band_names, valid, *georeference, sensor=sensor.name)


def stackable_runs(chips: Sequence[Chip], flags: Sequence[bool]) -> Iterator[slice]:
    """Divide a list into runs of neighbours that stack and have equal flags, which are short enough for the cache."""
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
    """Return where pixels (B, H, W) have data, or None if all have. A test runs only if the extremes require it."""
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
    """Add warnings about values that look wrong. Only the user can know the right ones."""
    low, high = extremes
    for chip, value in zip(chips, torch.maximum(high, -low).amax(1).tolist()):
        if value > LARGEST_COMPUTABLE:
            raise ValueError(f"{chip.name}: values reach {value:.3g}. If these mean no data, pass `nodata=`.")
        if value <= LARGEST_REFLECTANCE:
            notices[TOO_SMALL].append(chip.name)
        elif value >= LARGEST_DIGITAL_NUMBER:
            notices[TOO_LARGE].append(chip.name)
    if "B10" in chips[0].band_names and chips[0].offsets is None:
        position = chips[0].band_names.index("B10")
        (median,) = percentiles(raw[:, position : position + 1], valid, (0.5,))
        for chip, value in zip(chips, median.squeeze(1).tolist()):
            if value >= CIRRUS_WITH_OFFSET:
                notices[UNSTATED_OFFSET].append(chip.name)


def _check_offsets(
    chips: Sequence[Chip], kept: torch.Tensor, valid: torch.Tensor | None, low: torch.Tensor, notices: Notices
) -> None:
    """Add warnings about offsets that make a large share of the valid values negative.

    The values in `kept` (B, C, H, W) include the offsets. `low` (B, C) are their minima.
    """
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

    Only digital numbers of 16 bits can be saturated: unsigned integers, and values that the reader of a file computed
    from them. A band without other valid values keeps the saturated ones.
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
