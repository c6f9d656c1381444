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
"""The table of known sensors: their bands, and how their products store reflectance.

Sources: Landsat 4-5 TM, 7 ETM+ and 8-9 OLI from the USGS data format control books (LSDS-1618, LSDS-1619: Collection 2
Level-2 surface reflectance = stored x 0.0000275 - 0.2, 0 is fill); HLS from the LP DAAC user guide 2.0 (x 0.0001,
-9999 is fill); PlanetScope from Planet's imagery product specification (surface reflectance x 10000, 0 is fill); MODIS
from the MOD09 user guide (x 0.0001, -28672 is fill); EnMAP from EN-PCV-ICD-2009 (L2A, x 0.0001, -32768 is fill).
The days of launch are those of Landsat 4, 7 and 8, Terra, EnMAP, PRISMA and EMIT in the catalogues of their agencies.
Imaging spectrometers have hundreds of bands whose wavelengths vary from file to file. They are read from the file, or
passed by the caller.
"""

from collections.abc import Sequence
from typing import Any

from .bands import BANDS, PSEUDO_BAND_MEAN, SENTINEL_2, Band, Sensor, parse_wavelength


_COLLECTION_2: dict[str, Any] = {"scale": 2.75e-5, "offset": -0.2, "nodata": 0.0}
_HLS: dict[str, Any] = {"scale": 1e-4, "nodata": -9999.0}

# The aliases are keys of catalogues (STAC, earth-search, Planetary Computer). Panchromatic and thermal bands are left
# out, because models of reflectance do not use them.
_OLI = (
    Band("B1", 443.0, 16, 30, ("coastal", "coastal_aerosol")),
    Band("B2", 482.0, 60, 30, ("blue",)),
    Band("B3", 561.4, 57, 30, ("green",)),
    Band("B4", 654.6, 37, 30, ("red",)),
    Band("B5", 864.7, 28, 30, ("nir", "nir08")),
    Band("B6", 1608.9, 85, 30, ("swir_1", "swir16")),
    Band("B7", 2200.7, 187, 30, ("swir_2", "swir22")),
    Band("B9", 1373.4, 20, 30, ("cirrus",)),
)

LANDSAT_8 = Sensor("landsat-8", _OLI, "Landsat 8/9 OLI", **_COLLECTION_2, launch="2013-02-11")
LANDSAT_7 = Sensor(
    "landsat-7",
    (
        Band("B1", 478.7, 67, 30, ("blue",)),
        Band("B2", 561.0, 78, 30, ("green",)),
        Band("B3", 661.4, 60, 30, ("red",)),
        Band("B4", 834.6, 120, 30, ("nir", "nir08")),
        Band("B5", 1650.3, 190, 30, ("swir_1", "swir16")),
        Band("B7", 2208.1, 251, 30, ("swir_2", "swir22")),
    ),
    "Landsat 7 ETM+",
    **_COLLECTION_2,
    launch="1999-04-15",
)
LANDSAT_5 = Sensor(
    "landsat-5",
    (
        Band("B1", 486.0, 66, 30, ("blue",)),
        Band("B2", 569.0, 81, 30, ("green",)),
        Band("B3", 660.0, 67, 30, ("red",)),
        Band("B4", 840.0, 128, 30, ("nir", "nir08")),
        Band("B5", 1676.0, 217, 30, ("swir_1", "swir16")),
        Band("B7", 2223.0, 252, 30, ("swir_2", "swir22")),
    ),
    "Landsat 4/5 TM",
    **_COLLECTION_2,
    launch="1982-07-16",
)
HLS_L30 = Sensor("hls-l30", _OLI, "HLS L30 (Landsat)", **_HLS, launch=LANDSAT_8.launch)
HLS_S30 = Sensor(
    "hls-s30",
    tuple(Band(band.name, band.wavelength, band.width, 30, band.aliases) for band in BANDS.values()),
    "HLS S30 (Sentinel-2)",
    **_HLS,
    launch=SENTINEL_2.launch,
)
PLANETSCOPE_4 = Sensor(
    "planetscope-4",
    (Band("blue", 490, 50, 3), Band("green", 565, 36, 3), Band("red", 665, 31, 3), Band("nir", 865, 40, 3)),
    "PlanetScope, 4 bands",
    scale=1e-4,
    nodata=0.0,
)
PLANETSCOPE_8 = Sensor(
    "planetscope-8",
    (
        Band("coastal_blue", 443, 20, 3, ("coastal",)),
        Band("blue", 490, 50, 3),
        Band("green_i", 531, 36, 3, ("green1",)),
        Band("green", 565, 36, 3, ("green_ii",)),
        Band("yellow", 610, 20, 3),
        Band("red", 665, 31, 3),
        Band("rededge", 705, 15, 3),
        Band("nir", 865, 40, 3),
    ),
    "PlanetScope, 8 bands",
    scale=1e-4,
    nodata=0.0,
)
MODIS = Sensor(
    "modis",
    (
        Band("B1", 645.0, 50, 250, ("red",)),
        Band("B2", 858.5, 35, 250, ("nir",)),
        Band("B3", 469.0, 20, 500, ("blue",)),
        Band("B4", 555.0, 20, 500, ("green",)),
        Band("B5", 1240.0, 20, 500, ("nir_2",)),
        Band("B6", 1640.0, 24, 500, ("swir_1",)),
        Band("B7", 2130.0, 50, 500, ("swir_2",)),
    ),
    "MODIS",
    scale=1e-4,
    nodata=-28672.0,
    launch="1999-12-18",
)
ENMAP = Sensor("enmap", (), "EnMAP", scale=1e-4, nodata=-32768.0, launch="2022-04-01")

SENSORS: dict[str, Sensor] = {
    sensor.name: sensor
    for sensor in (
        SENTINEL_2,
        LANDSAT_8,
        LANDSAT_7,
        LANDSAT_5,
        HLS_L30,
        HLS_S30,
        PLANETSCOPE_4,
        PLANETSCOPE_8,
        MODIS,
        ENMAP,
        Sensor("prisma", title="PRISMA", launch="2019-03-22"),
        Sensor("emit", title="EMIT", scale=1.0, launch="2022-07-14"),
        Sensor("aviris", title="AVIRIS"),
    )
}
"""The known sensors by name."""


def get_sensor(sensor: Sensor | str) -> Sensor:
    """Return a sensor by its name ("landsat-8", "Landsat 9", "HLS S30"). A `Sensor` is returned as it is.

    Raises:
        ValueError: If there is no sensor of this name.
    """
    if not isinstance(sensor, str):
        return sensor
    plain = sensor.strip().lower().replace(" ", "-").replace("_", "-")
    found = SENSORS.get({"landsat-9": "landsat-8", "landsat-4": "landsat-5"}.get(plain, plain))
    if found is None:
        raise ValueError(
            f"Unknown sensor {sensor!r}: expected one of {', '.join(SENSORS)}, or a `Sensor` with your own bands."
        )
    return found


def model_sensor(name: str, bands: Sequence[str], wavelengths: Sequence[float | None] | None = None) -> Sensor:
    """Return the sensor of a model from the attributes that its configuration and its processor save.

    Args:
        name: `config.sensor`. A name that is not in `SENSORS` stands for a sensor that the user has defined.
        bands: Names of the bands. "mean" stands for the mean of the others.
        wavelengths: Wavelengths of the bands in nm; by default those of the table.

    Returns:
        The sensor with only these bands. Sentinel-2 is returned with all its bands, because B10 shows which offset a
        file has.

    Raises:
        ValueError: If a band is unknown, or the number of wavelengths differs from that of the bands.
    """
    known = SENSORS.get(name)
    if wavelengths is not None and len(wavelengths) != len(bands):
        raise ValueError(f"Expected a wavelength for each of the {len(bands)} bands, found {len(wavelengths)}.")
    if known is None:
        values = wavelengths or [parse_wavelength(band) for band in bands]
        known = Sensor(name, tuple(Band(b, value) for b, value in zip(bands, values) if b != PSEUDO_BAND_MEAN))
    if known.name == SENTINEL_2.name:
        return known
    return known.only(known.resolve_all(bands, allow_mean=True), wavelengths)
