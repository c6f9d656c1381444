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
"""Bands of sensors: their names in files and in common use, and their wavelengths. The default sensor is Sentinel-2.

A band has a name of its sensor ("B5", "nir") or a name made of its wavelength ("842nm"), which every sensor resolves.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache


PSEUDO_BAND_MEAN = "mean"


@dataclass(frozen=True)
class Band:
    """One spectral band of a sensor.

    Attributes:
        name: Canonical name, as in "B8A" or "nir".
        wavelength: Central wavelength in nm; None if it is not known.
        width: Full width at half maximum in nm; None if it is not known.
        resolution: Native ground sampling in metres; None if it varies, as for a drone.
        aliases: Other names. `Sensor.resolve` ignores case, zeros and separators.
    """

    name: str
    wavelength: float | None = None
    width: float | None = None
    resolution: float | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensor:
    """An instrument: its bands, and how its products store reflectance.

    Users make their own and pass them wherever a `sensor` is taken:

    ```python
    drone = Sensor("drone", (Band("green", 560, 32), Band("red", 668, 14), Band("nir", 842, 57)))
    inputs = processor("field.tif", sensor=drone, match="wavelength")
    ```

    Attributes:
        name: Name as in `config.sensor`: "landsat-8".
        bands: Bands in the order of the product's files. Empty for imaging spectrometers, whose wavelengths are read
            from each file.
        title: Name in messages; `name` by default.
        scale: Reflectance = stored value x `scale` + `offset`, if a product file does not state its own. None if it is
            not known: values are then taken as digital numbers (reflectance x 10000).
        offset: See `scale`.
        nodata: Stored value that means no data, if a file declares none.
        launch: Day on which the first of its satellites was launched, as in "2015-06-23", before which there are no
            images; empty if there is none, or it is not known.

    Raises:
        ValueError: If two bands share a name, or a wavelength is not a positive number.
    """

    name: str
    bands: tuple[Band, ...] = ()
    title: str = ""
    scale: float | None = None
    offset: float = 0.0
    nodata: float | None = None
    launch: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        names = [normalise(band.name) for band in self.bands]
        twice = [band.name for band, name in zip(self.bands, names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{self}: expected another name for each band, found several called {', '.join(twice)}.")
        for band in self.bands:
            if band.wavelength is not None and not (band.wavelength > 0 and math.isfinite(band.wavelength)):
                raise ValueError(f"{self}: expected a wavelength of {band.name} in nm, found {band.wavelength}.")

    def __str__(self) -> str:
        return self.title or self.name

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(band.name for band in self.bands)

    @cached_property
    def resolution(self) -> float | None:
        """Finest ground sampling of the bands in metres; None if it is not known."""
        return min((band.resolution for band in self.bands if band.resolution is not None), default=None)

    def band(self, name: str) -> Band:
        """Return a band by its canonical name. A name that is a wavelength returns a band with only this wavelength."""
        found = self._bands.get(name)
        return Band(name, parse_wavelength(name)) if found is None else found

    def wavelengths(self, names: Iterable[str]) -> list[float | None]:
        """Return the central wavelengths, in nm, of canonical names; None for a band without one, such as "mean"."""
        return [self.band(name).wavelength for name in names]

    def only(self, names: Sequence[str], wavelengths: Sequence[float | None] | None = None) -> "Sensor":
        """Return the sensor with only these bands, in this order, at these wavelengths in nm (by default its own)."""
        kept = [self.band(name) for name in names if name != PSEUDO_BAND_MEAN]
        if wavelengths is not None:
            given = dict(zip(names, wavelengths))
            kept = [replace(band, wavelength=given[band.name]) for band in kept]
        return replace(self, bands=tuple(dict.fromkeys(kept)))

    def resolve(self, name: str) -> str:
        """Return the canonical name of a band.

        Args:
            name: Any common name ("B2", "b02", "Band 2", "blue", "SWIR-1"), or a wavelength ("842nm").

        Raises:
            ValueError: If no band has this name; the message suggests the nearest name.
        """
        found = self._names.get(normalise(name)) if isinstance(name, str) else None
        if found is None and isinstance(name, str) and parse_wavelength(name) is not None:
            found = wavelength_name(parse_wavelength(name) or 0)
        if found is None:
            near = difflib.get_close_matches(normalise(str(name)), self._names, n=1)
            suggestion = ""
            if near:
                band = self._bands[self._names[near[0]]]
                suggestion = f" Did you mean {band.name!r}{f' ({band.aliases[0]})' if band.aliases else ''}?"
            expected = f"one of {', '.join(self.band_names)} or a common name" if self.bands else "a wavelength (842nm)"
            raise ValueError(f"Unknown band {name!r}.{suggestion} Expected {expected}.")
        return found

    def resolve_all(self, names: Iterable[str], allow_mean: bool = False) -> tuple[str, ...]:
        """Return the canonical names of several bands, in the given order.

        Args:
            names: Names as in `resolve`.
            allow_mean: Whether to accept the pseudo-band "mean", the mean of the other bands, any number of times.

        Raises:
            ValueError: If a name is unknown, or a band occurs twice.
        """
        if isinstance(names, str):
            raise ValueError(f"Expected a list of band names, got the string {names!r}.")
        names = list(names)
        means = [allow_mean and str(name).lower() == PSEUDO_BAND_MEAN for name in names]
        bands = tuple(PSEUDO_BAND_MEAN if mean else self.resolve(name) for name, mean in zip(names, means))
        twice = [band for band in dict.fromkeys(bands) if bands.count(band) > 1 and band != PSEUDO_BAND_MEAN]
        if twice:
            twice.sort(key=lambda band: self.band_names.index(band) if band in self.band_names else math.inf)
            raise ValueError(
                f"Each band may occur once, but {', '.join(twice)} occurs more often in {', '.join(bands)}."
            )
        return bands

    def find(self, text: str) -> str | None:
        """Return the band that a file name or a band description names, or None.

        The text may be a name ("red", "B8A"). Otherwise the last separate band number counts ("T33UUU_20170216_B8A_20m"
        and "B8A, narrow NIR" are B8A), and then a wavelength with its unit ("0.842 um"). "Band 9" is no name, because
        much software writes it for the ninth band of any file.
        """
        whole = None if re.match(r"\s*band[\s_]*\d", text, re.IGNORECASE) else self._names.get(normalise(text))
        inside = re.findall(r"(?<![a-z0-9])b0{0,2}([1-9]\d?a?)(?![a-z0-9])", text.lower().replace("_", " "))
        known = [self._names[f"b{number}"] for number in inside if f"b{number}" in self._names]
        wavelength = parse_wavelength(text)
        return whole or (known[-1] if known else None if wavelength is None else wavelength_name(wavelength))

    @cached_property
    def _bands(self) -> dict[str, Band]:
        return {band.name: band for band in self.bands}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {normalise(name): band.name for band in self.bands for name in (band.name, *band.aliases)}


def parse_wavelength(text: str) -> float | None:
    """Return the wavelength in nm that a text states with its unit ("842nm", "0.842 um"), or None."""
    found = _WAVELENGTH.search(text.lower())
    if found is None:
        return None
    value = float(found[1]) * (1 if found[2].startswith("n") else 1000)
    return value if value > 0 else None


def wavelength_name(wavelength: float) -> str:
    """Return the name of a band that has no other name, which is its wavelength in nm."""
    return f"{wavelength:.8g}nm"


@lru_cache(maxsize=4096)  # images name the same few bands again and again
def normalise(name: str) -> str:
    """Remove case, separators, the word "band" and leading zeros, so that "Band_08a" and "B8A" are the same."""
    plain = re.sub(r"[\s_.\-]", "", name.lower())
    return re.sub(r"^(?:band|b)0?(?=[1-9])", "b", plain)


_WAVELENGTH = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)[\s_]*(nm|nanomet(?:er|re)s?|[u\u00b5\u03bc]m|micromet(?:er|re)s?|microns?)(?![a-z0-9])"
)


@dataclass(frozen=True)
class MsiBand(Band):
    """One band of the MultiSpectral Instrument.

    Attributes:
        wavelength_s2b: Central wavelength on Sentinel-2B, in nm; `wavelength` is that on Sentinel-2A.
    """

    wavelength_s2b: float = 0.0

    @property
    def wavelength_s2a(self) -> float:
        """Central wavelength on Sentinel-2A, in nm."""
        return self.wavelength or 0.0


# Wavelengths are those in the metadata of the products (Spectral_Information, CENTRAL), and widths those of the MSI's
# spectral responses (COPE-GSEG-EOPG-TN-15-0007). The order is that of the products.
BANDS: dict[str, MsiBand] = {
    name: MsiBand(name, s2a, width, resolution, aliases, s2b)
    for name, aliases, s2a, s2b, width, resolution in (
        ("B1", ("coastal", "coastal_aerosol", "aerosol", "ultra_blue"), 442.7, 442.3, 20, 60),
        ("B2", ("blue",), 492.7, 492.3, 65, 10),
        ("B3", ("green",), 559.8, 558.9, 35, 10),
        ("B4", ("red",), 664.6, 664.9, 30, 10),
        ("B5", ("red_edge_1", "rededge071", "vegetation_red_edge_1"), 704.1, 703.8, 14, 20),
        ("B6", ("red_edge_2", "rededge075", "vegetation_red_edge_2"), 740.5, 739.1, 14, 20),
        ("B7", ("red_edge_3", "rededge078", "vegetation_red_edge_3"), 782.8, 779.7, 19, 20),
        ("B8", ("nir", "nir_broad", "near_infrared"), 832.8, 832.9, 105, 10),
        ("B8A", ("nir_narrow", "narrow_nir", "nir08"), 864.7, 864.0, 21, 20),
        ("B9", ("water_vapour", "water_vapor", "nir09"), 945.1, 943.2, 19, 60),
        ("B10", ("cirrus", "swir_cirrus"), 1373.5, 1376.9, 29, 60),
        ("B11", ("swir_1", "swir16"), 1613.7, 1610.4, 90, 20),
        ("B12", ("swir_2", "swir22"), 2202.4, 2185.7, 174, 20),
    )
}

SENTINEL_2 = Sensor("sentinel-2", tuple(BANDS.values()), "Sentinel-2", launch="2015-06-23")

L1C_BANDS = tuple(BANDS)
L2A_BANDS = tuple(name for name in BANDS if name != "B10")
BANDS_10M_20M = tuple(name for name, band in BANDS.items() if (band.resolution or 0) < 60)
EUROSAT_FILE_BANDS = (*(name for name in L1C_BANDS if name != "B8A"), "B8A")
BIGEARTHNET_BANDS = L2A_BANDS
SEGMUNICH_BANDS = BANDS_10M_20M


def resolve_bands(names: Iterable[str], allow_mean: bool = False) -> tuple[str, ...]:
    """Return the canonical names of several bands of Sentinel-2, as `Sensor.resolve_all`."""
    return SENTINEL_2.resolve_all(names, allow_mean)


def find_band(text: str) -> str | None:
    """Return the band of Sentinel-2 that a file name or a description names, or None, as `Sensor.find`."""
    return SENTINEL_2.find(text)


def bands_from_count(count: int) -> tuple[str, ...] | None:
    """Return the bands that `count` unnamed bands usually are (13: L1C, 12: L2A, 10: those of 10 and 20 m), or None."""
    return {len(layout): layout for layout in (L1C_BANDS, L2A_BANDS, BANDS_10M_20M)}.get(count)


def own_bands(expected: Iterable[str]) -> tuple[str, ...]:
    """Return the expected bands without the pseudo-band, which no file holds."""
    return tuple(band for band in expected if band != PSEUDO_BAND_MEAN)
