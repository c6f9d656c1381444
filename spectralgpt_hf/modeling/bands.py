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
"""The 13 bands of Sentinel-2, the names that files and people give them, and the orders that files store them in."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """One band of the MultiSpectral Instrument.

    Attributes:
        name: Canonical name, "B1" ... "B12" or "B8A".
        aliases: Other names, without the variants in case, zeros and separators that `resolve_band` sees through.
        wavelength_s2a: Central wavelength on Sentinel-2A, in nm.
        wavelength_s2b: Central wavelength on Sentinel-2B, in nm.
        resolution: Native ground sampling, in metres.
    """

    name: str
    aliases: tuple[str, ...]
    wavelength_s2a: float
    wavelength_s2b: float
    resolution: int


# Wavelengths as the products state them (Spectral_Information, CENTRAL); the order is that of the products too.
BANDS: dict[str, Band] = {
    band.name: band
    for band in (
        Band("B1", ("coastal", "coastal_aerosol", "aerosol", "ultra_blue"), 442.7, 442.3, 60),
        Band("B2", ("blue",), 492.7, 492.3, 10),
        Band("B3", ("green",), 559.8, 558.9, 10),
        Band("B4", ("red",), 664.6, 664.9, 10),
        Band("B5", ("red_edge_1", "rededge071", "vegetation_red_edge_1"), 704.1, 703.8, 20),
        Band("B6", ("red_edge_2", "rededge075", "vegetation_red_edge_2"), 740.5, 739.1, 20),
        Band("B7", ("red_edge_3", "rededge078", "vegetation_red_edge_3"), 782.8, 779.7, 20),
        Band("B8", ("nir", "nir_broad", "near_infrared"), 832.8, 832.9, 10),
        Band("B8A", ("nir_narrow", "narrow_nir", "nir08"), 864.7, 864.0, 20),
        Band("B9", ("water_vapour", "water_vapor", "nir09"), 945.1, 943.2, 60),
        Band("B10", ("cirrus", "swir_cirrus"), 1373.5, 1376.9, 60),
        Band("B11", ("swir_1", "swir16"), 1613.7, 1610.4, 20),
        Band("B12", ("swir_2", "swir22"), 2202.4, 2185.7, 20),
    )
}

L1C_BANDS = tuple(BANDS)
L2A_BANDS = tuple(name for name in BANDS if name != "B10")
BANDS_10M = ("B2", "B3", "B4", "B8")
BANDS_10M_20M = tuple(name for name, band in BANDS.items() if band.resolution < 60)
EUROSAT_FILE_BANDS = (*(name for name in L1C_BANDS if name != "B8A"), "B8A")
BIGEARTHNET_BANDS = L2A_BANDS
SEGMUNICH_BANDS = BANDS_10M_20M

PSEUDO_BAND_MEAN = "mean"


def resolve_band(name: str) -> str:
    """Return the canonical name of a band.

    Args:
        name: Any usual name: "B2", "b02", "Band 2", "blue", "B08A", "nir_narrow", "SWIR-1", ...

    Raises:
        ValueError: If no band is called so; the message suggests the nearest name.
    """
    found = _NAMES.get(_normalise(name)) if isinstance(name, str) else None
    if found is None:
        near = difflib.get_close_matches(_normalise(str(name)), _NAMES, n=1)
        suggestion = f" Did you mean {_NAMES[near[0]]!r} ({BANDS[_NAMES[near[0]]].aliases[0]})?" if near else ""
        raise ValueError(f"Unknown band {name!r}.{suggestion} Expected one of {', '.join(BANDS)} or a common name.")
    return found


def resolve_bands(names: Iterable[str], allow_mean: bool = False) -> tuple[str, ...]:
    """Return the canonical names of several bands, in the given order.

    Args:
        names: Usual names.
        allow_mean: Accept the pseudo-band "mean", the mean of the other bands, any number of times.

    Raises:
        ValueError: If a name is unknown, or a band occurs twice.
    """
    if isinstance(names, str):
        raise ValueError(f"Expected a list of band names, got the string {names!r}.")
    names = list(names)
    means = [allow_mean and str(name).lower() == PSEUDO_BAND_MEAN for name in names]
    bands = tuple(PSEUDO_BAND_MEAN if mean else resolve_band(name) for name, mean in zip(names, means))
    twice = [band for band in BANDS if bands.count(band) > 1]
    if twice:
        raise ValueError(f"Each band may occur once, but {', '.join(twice)} occurs more often in {', '.join(bands)}.")
    return bands


def find_band(text: str) -> str | None:
    """Return the band that a file name or a band description speaks of, or None.

    A whole name counts ("red", "B8A"), and else the last band number that stands alone: "T33UUU_20170216_B8A_20m" and
    "B8A, narrow NIR" are B8A. "Band 9" counts as none: much software writes it for the ninth band, whatever that is.
    """
    whole = None if re.match(r"\s*band[\s_]*\d", text, re.IGNORECASE) else _NAMES.get(_normalise(text))
    inside = re.findall(r"(?<![a-z0-9])b0?(8a|1[0-2]|[1-9])(?![a-z0-9])", text.lower().replace("_", " "))
    return whole or (_NAMES[f"b{inside[-1]}"] if inside else None)


def bands_from_count(count: int) -> tuple[str, ...] | None:
    """Return the usual bands of `count` unnamed ones (13: L1C, 12: L2A, 10: those of 10 and 20 m), or None."""
    return {len(layout): layout for layout in (L1C_BANDS, L2A_BANDS, BANDS_10M_20M)}.get(count)


def _normalise(name: str) -> str:
    """Drop case, separators, the word "band" and leading zeros, so that "Band_08a" and "B8A" are the same."""
    plain = re.sub(r"[\s_.\-]", "", name.lower())
    return re.sub(r"^(?:band|b)0?(?=[1-9])", "b", plain)


_NAMES = {_normalise(name): band.name for band in BANDS.values() for name in (band.name, *band.aliases)}
