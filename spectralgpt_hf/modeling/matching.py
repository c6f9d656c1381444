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
"""Match the bands of one sensor to a model of another by wavelength, if the caller asks for it; else refuse them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .bands import SENTINEL_2, Sensor, parse_wavelength
from .sensors import get_sensor


TOLERANCE = 0.04
"""Largest distance of the centres of matched bands, as a share of the wavelength: 18 nm in the blue, 35 nm in the near
infrared, 88 nm at 2200 nm. Landsat's near infrared (865 nm) matches B8 (833 nm). Its red (655 nm) does not match the
red edge (704 nm)."""


@dataclass(frozen=True)
class Matching:
    """The sensors of a model and of a source, as far as the caller states them.

    Attributes:
        expected: The sensor of the model.
        sensor: The sensor of the source, instead of the one that it states; None to identify it.
        match: `"wavelength"` matches the bands of another sensor to those of the expected one by wavelength. None
            refuses a source of another sensor.
    """

    expected: Sensor = SENTINEL_2
    sensor: Sensor | None = None
    match: str | None = None

    @classmethod
    def of(
        cls, expected: Sensor | str | None = None, sensor: Sensor | str | None = None, match: str | None = None
    ) -> "Matching":
        """Return a checked instance.

        Args:
            expected: The attribute, or the name of a known sensor. Defaults to `sensor` if it is given without `match`,
                else to Sentinel-2.
            sensor: The attribute, or the name of a known sensor.
            match: The attribute.

        Raises:
            ValueError: If a name is unknown.
        """
        if match not in (None, "wavelength"):
            raise ValueError(f"`match` must be 'wavelength' or None, got {match!r}.")
        stated = None if sensor is None else get_sensor(sensor)
        if expected is None:
            expected = stated if stated is not None and match is None else SENTINEL_2
        return cls(get_sensor(expected), stated, match)

    def sensor_of(self, found: Sensor | None, name: str, are_named: bool = False) -> Sensor:
        """Return the sensor whose band names the source uses.

        Args:
            found: Sensor that the source states; None if it states none.
            name: Name of the source in messages.
            are_named: Whether the caller has named the bands. Without `sensor` and `match`, they are bands of the
                expected sensor, because the caller may declare which of its bands each of them replaces.

        Raises:
            ValueError: If the sensor is not the expected one and `match` is None.
        """
        if self.sensor is None and self.match is None and are_named:
            return self.expected
        sensor = self.sensor or found or self.expected
        if sensor.name != self.expected.name and self.match is None:
            raise ValueError(
                f"{name}: an image of {sensor}, but expected {self.expected}, whose bands of the same name have other "
                "wavelengths. Pass `match='wavelength'` to use those of its bands that are near enough, or "
                f"`sensor='{self.expected.name}'` if it is an image of {self.expected} nevertheless."
            )
        is_known = sensor.bands or sensor.name != self.expected.name
        return sensor if is_known else self.expected

    def serve(self, sensor: Sensor, band_names: Sequence[str], name: str) -> dict[str, int] | None:
        """Return the position of the band of a source that matches each expected band, by the name of the latter.

        Args:
            sensor: Sensor of the source.
            band_names: Canonical names of the bands of the source.
            name: Name of the source in messages.

        Returns:
            A dict without the expected bands that no band is near enough to, or None if bands are found by name.

        Raises:
            ValueError: If no band is near enough to an expected one, or their wavelengths are unknown.
        """
        own = sensor.name == self.expected.name
        by_wavelength = any(parse_wavelength(band) is not None for band in band_names)
        if self.match is None or (own and not by_wavelength) or (own and {*self.expected.band_names} <= {*band_names}):
            return None
        centres = [centre for centre in sensor.wavelengths(band_names) if centre is not None]
        if not centres:
            raise ValueError(
                f"{name}: the wavelengths of its bands ({', '.join(band_names)}) are unknown, so they cannot be "
                "matched. Pass `sensor=Sensor(name, bands)` with them, or `band_names` such as '842nm'."
            )
        wanted = [(band.name, band.wavelength) for band in self.expected.bands if band.wavelength is not None]
        nearest = {ours: nearest_band(centre, sensor, band_names) for ours, centre in wanted}
        served = {ours: band_names.index(theirs) for ours, theirs in nearest.items() if theirs is not None}
        if not served:
            found = ", ".join(f"{centre:g}" for centre in centres)
            raise ValueError(
                f"{name}: no band of {sensor} ({found} nm) is within {TOLERANCE:.0%} of the wavelength of a band of "
                f"{self.expected}."
            )
        return served


def nearest_band(
    wavelength: float, sensor: Sensor, band_names: Sequence[str], tolerance: float = TOLERANCE
) -> str | None:
    """Return the band of a sensor that is nearest to a wavelength in nm, or None if none is near enough."""
    centres = {band: centre for band, centre in zip(band_names, sensor.wavelengths(band_names)) if centre is not None}
    nearest = min(centres, key=lambda band: abs(centres[band] - wavelength), default=None)
    return nearest if nearest and abs(centres[nearest] - wavelength) <= tolerance * wavelength else None


OF_SENTINEL_2 = Matching()
"""Sentinel-2 is expected, and every other sensor is refused."""


def match_tags(sensor: Sensor, band_names: Sequence[str], served: Mapping[str, int]) -> dict[str, str]:
    """Return the tags that list the matched bands: the result of `Matching.serve`, with wavelengths in nm."""
    names = {
        band: f"{band_names[number]} ({sensor.band(band_names[number]).wavelength:g} nm)"
        for band, number in served.items()
    }
    return {"source_sensor": str(sensor), "matched_bands": json.dumps(names)}


def matched_bands(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the band of the source for each matched band, from the tags of `match_tags`; empty without them."""
    return json.loads(tags.get("matched_bands", "{}"))
