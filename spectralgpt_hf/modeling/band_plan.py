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
"""Match the bands of an input to the bands that a model expects."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .bands import SENTINEL_2, Sensor


@dataclass(frozen=True)
class BandPlan:
    """The source of each band that a model expects.

    Attributes:
        kept: Positions in the input of the bands that are used, in the model's order.
        order: For each expected band its position among the kept ones, or their number for their mean.
        filled: For each missing band, the band that replaces it, or "mean".
    """

    kept: list[int]
    order: list[int]
    filled: dict[str, str]

    @property
    def notice(self) -> str:
        """Text of the warning about missing bands; empty if there are none."""
        pairs = [
            f"{band} by {'the mean of the others' if name == 'mean' else name}" for band, name in self.filled.items()
        ]
        return f"missing bands were replaced: {', '.join(pairs)} (`missing_bands`)" if pairs else ""

    @property
    def has_mean(self) -> bool:
        """Whether an expected band is the mean of the kept ones."""
        return len(self.kept) in self.order

    def apply(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the expected bands (B, C, H, W) from the kept ones."""
        number = kept.shape[1]
        if self.order == list(range(number)):
            return kept
        if self.has_mean:
            kept = torch.cat([kept.float(), kept.float().mean(1, keepdim=True)], 1)
        return kept[:, self.order]


def require_same_bands(
    model_bands: Sequence[str], processor_bands: Sequence[str], sensors: tuple[str, str] | None = None
) -> None:
    """Refuse a processor that gives a model other bands than its weights expect, or in another order.

    Args:
        model_bands: `model.config.bands`.
        processor_bands: `processor.bands`.
        sensors: `model.config.sensor` and `processor.sensor`, whose bands of one name have different wavelengths.

    Raises:
        ValueError: If they differ.
    """
    if sensors is not None and sensors[0] != sensors[1]:
        raise ValueError(
            f"The model expects bands of the sensor {sensors[0]!r}, but the processor gives those of {sensors[1]!r}. "
            "Load the processor with `**model.config.band_settings()`."
        )
    if list(model_bands) != list(processor_bands):
        raise ValueError(
            f"The processor must give the bands that the model expects, in the same order: expected "
            f"{' '.join(model_bands)} (`config.bands`), got {' '.join(processor_bands)}. Load the processor with "
            "`bands=model.config.bands`."
        )


def plan_bands(
    name: str, found: Sequence[str], expected: Sequence[str], missing_bands: str, sensor: Sensor = SENTINEL_2
) -> BandPlan:
    """Match the bands of an input to those that a model expects.

    Args:
        name: Name of the input in messages.
        found: Bands of the input.
        expected: Bands of the model; `"mean"` is the mean of the others.
        missing_bands: `"error"`, `"nearest"` (in wavelength), `"mean"` (of the bands that are present) or `"mask"`
            (filled like `"nearest"`; the caller masks the groups that have no other band).
        sensor: Sensor of the bands, for their wavelengths.

    Raises:
        ValueError: If all bands are missing, or if one is and `missing_bands` is `"error"`.
    """
    kept = [band for band in expected if band in found]
    missing = [band for band in expected if band not in found and band != "mean"]
    if not kept or (missing and missing_bands == "error"):
        raise ValueError(
            f"{name}: expected the bands {' '.join(expected)}, found {' '.join(found)}; missing: {' '.join(missing)}. "
            "Name the input's bands (`band_names`), or choose what replaces missing ones (`missing_bands`): nearest, "
            "mean or mask. Bands of another sensor may be matched by wavelength (`match`)."
        )
    centres = {band: sensor.band(band).wavelength or 0.0 for band in expected}
    filled = {}
    for band in missing:
        nearest = min(kept, key=lambda other: abs(centres[other] - centres[band]))
        filled[band] = "mean" if missing_bands == "mean" else nearest
    sources = [filled.get(band, band) for band in expected]
    order = [kept.index(source) if source in kept else len(kept) for source in sources]
    return BandPlan([list(found).index(band) for band in kept], order, filled)
