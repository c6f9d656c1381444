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
"""The limits between which each band is scaled: the rules, the statistics that set them, and checks of statistics.

Statistics are the result of `measure_statistics`: `bands`, and lists with one value for each of them. They are always
looked up by band name, so that another order of bands cannot misalign them.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from .bands import PSEUDO_BAND_MEAN, SENTINEL_2, Sensor
from .pixel_statistics import StatisticName, Statistics, minimum_maximum, percentiles, span
from .radiometry import PERCENTILES, Stack


# The statistics that set the limits of each rule, if these are not measured on the image itself.
LIMITS: dict[str, tuple[StatisticName, StatisticName]] = {
    "minmax": ("percentile_1", "percentile_99"),
    "percentile": ("percentile_1", "percentile_99"),
    "zscore": ("mean", "std"),
    "sigma_clip": ("mean", "std"),
}
NORMALIZATIONS = tuple(LIMITS)
ORDERED: tuple[tuple[StatisticName, StatisticName], ...] = (
    ("minimum", "maximum"),
    ("percentile_1", "percentile_99"),
)


def by_band(
    name: str,
    values: Sequence[float] | Mapping[str, float] | None,
    bands: Sequence[str],
    sensor: Sensor = SENTINEL_2,
) -> dict[str, float] | None:
    """Return one value for each band, by its name.

    Args:
        name: Name of the values in messages.
        values: Values in the order of the bands, or by band name; None returns None.
        bands: Canonical names.
        sensor: Sensor of the bands.

    Raises:
        ValueError: If a band has no value or two different ones, or a value is not finite.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        known = {key if key == PSEUDO_BAND_MEAN else sensor.resolve(key): value for key, value in values.items()}
        missing = [band for band in bands if band not in known]
        if missing:
            raise ValueError(f"`{name}` must have a value for each band, and has none for {', '.join(missing)}.")
        values = [known[band] for band in bands]
    if len(values) != len(bands):
        raise ValueError(f"`{name}` must have a value for each of the {len(bands)} bands, got {len(values)}.")
    result = {band: float(value) for band, value in zip(bands, values)}
    if not all(map(math.isfinite, result.values())):
        raise ValueError(f"`{name}` must be finite, got {result}.")
    if any(result[band] != value for band, value in zip(bands, values)):
        raise ValueError(f"`{name}` must have one value for the band 'mean', got several: {list(values)}.")
    return result


def check_statistics(statistics: Statistics, bands: Sequence[str], normalization: str) -> None:
    """Check that statistics can set the limits of a rule.

    Args:
        statistics: Result of `measure_statistics`.
        bands: Bands that need a value.
        normalization: Name of the rule.

    Raises:
        ValueError: If a key or a band is missing, or the values are not finite or contradict each other.
    """
    needed = ("bands", *LIMITS[normalization])
    missing = [key for key in needed if not isinstance(statistics, Mapping) or key not in statistics]
    if missing:
        raise ValueError(f"`statistics` must come from `measure_statistics`: expected {missing[0]!r} in them.")
    found = list(statistics["bands"])
    absent = [band for band in bands if band not in found]
    if absent:
        raise ValueError(
            f"`statistics` are of the bands {', '.join(found)}, and lack {', '.join(absent)}: measure them with "
            "`processor.measure_statistics(images)`."
        )
    for key in LIMITS[normalization]:
        values = statistics[key]
        if len(values) != len(found) or not all(map(math.isfinite, values)):
            raise ValueError(
                f"`statistics` must have a finite {key!r} for each of {', '.join(found)}, got {list(values)}."
            )
    for low, high in ORDERED:
        if {low, high} <= statistics.keys() and any(a > b for a, b in zip(statistics[low], statistics[high])):
            raise ValueError(f"`statistics` must have {low!r} no larger than {high!r} in each band.")
    if min(statistics.get("std", [0])) < 0:
        raise ValueError("`statistics` must have no negative 'std'.")


def given_limits(
    statistics: Sequence[Statistics], bands: Sequence[str], normalization: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the limits that statistics set.

    Args:
        statistics: Checked statistics of each of B images.
        bands: The C bands to normalise.
        normalization: Name of the rule.
        device: Device of the result.

    Returns:
        The value that is subtracted from each band and the divisor of the difference, (B, C) each.
    """

    def look_up(key: StatisticName) -> torch.Tensor:
        values = [dict(zip(entry["bands"], entry[key])) for entry in statistics]
        rows = [[entry[band] for band in bands] for entry in values]
        return torch.tensor(rows, dtype=torch.float32, device=device)

    first, second = map(look_up, LIMITS[normalization])
    if normalization == "zscore":
        return first, torch.where(second > 0, second, torch.inf)
    if normalization == "sigma_clip":
        return first - 2 * second, span(first - 2 * second, first + 2 * second)
    return first, span(first, second)


def measured_limits(stack: Stack, normalization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure the limits of minmax or percentile normalisation on each image; the result is as in `given_limits`."""
    if normalization == "percentile":
        low, high = percentiles(stack.pixels, stack.measured, PERCENTILES)
    else:
        low, high = stack.extremes or minimum_maximum(stack.pixels, stack.measured)
    return low, span(low, high)
