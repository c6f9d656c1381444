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
"""Recognise the sensor of an image from the statements of files and catalogues, without assumptions.

The same band name means other wavelengths on other sensors: B5 is near infrared on Landsat 8 and red edge on
Sentinel-2.
"""

import os
import re
from collections.abc import Iterable, Mapping

from .bands import SENTINEL_2, Sensor
from .sensors import (
    ENMAP,
    HLS_L30,
    HLS_S30,
    LANDSAT_5,
    LANDSAT_7,
    LANDSAT_8,
    MODIS,
    PLANETSCOPE_4,
    PLANETSCOPE_8,
    SENSORS,
)


# Sensors without a table of bands. They are refused, unless the caller describes them (`Sensor`).
LANDSAT, PLANETSCOPE = Sensor("landsat", title="Landsat"), Sensor("planetscope", title="PlanetScope")
_PRISMA, _EMIT, _AVIRIS = (SENSORS[name] for name in ("prisma", "emit", "aviris"))

# File names of each sensor, from the product specifications: USGS LSDS-1619 (Landsat Collection 2), LP DAAC HLS user
# guide 2.0, Planet imagery product specification, EnMAP EN-PCV-ICD-2009, PRISMA product specification, LP DAAC EMIT and
# MODIS user guides, JPL AVIRIS, ESA Sentinel-2 products specification (S2-PDGS-TAS-DI-PSD).
_PLANET_STEM = r"\d{8}_\d{6}_\w+_3[AB]_?(?:Analytic|Visual|basic|ortho|udm)"
_FILE_NAMES: tuple[tuple[Sensor, str], ...] = (
    (LANDSAT_8, r"L[CO]0?[89]_L\w{3}_\d{6}_|L[CO][89]\d{13}"),
    (LANDSAT_7, r"LE0?7_L\w{3}_\d{6}_|LE7\d{13}"),
    (LANDSAT_5, r"LT0?[45]_L\w{3}_\d{6}_|LT[45]\d{13}"),
    (LANDSAT, r"L[COTEM]0?[1-9]_L\w{3}_\d{6}_|L[COTEM][1-9]\d{13}"),
    (HLS_L30, r"HLS\.L30\."),
    (HLS_S30, r"HLS\.S30\."),
    (PLANETSCOPE_8, rf"{_PLANET_STEM}\w*_8b"),
    (PLANETSCOPE_4, _PLANET_STEM),
    (ENMAP, r"ENMAP\d\d-"),
    (_PRISMA, r"PRS_L\d"),
    (_EMIT, r"EMIT_L\d"),
    (_AVIRIS, r"f\d{6}t\d\dp\d\dr\d\d|ang\d{8}t\d{6}"),
    (MODIS, r"M[OYC]D\d\d\w*\.A\d{7}|M[OYC]D09\w*\.\d{3}_"),
    (Sensor("sentinel-1", title="Sentinel-1"), r"S1[ABCD]_(?:IW|EW|SM|WV)_"),
    (Sensor("sentinel-3", title="Sentinel-3"), r"S3[AB]_(?:OL|SL)_"),
    # No other sensor has a band B8A, apart from HLS, whose products state their name.
    (SENTINEL_2, r"S2[ABCD]_MSI|T\d\d[A-Z]{3}_\d{8}T\d{6}_|(?:.*[_.])?B0?8A(?:[_.]|$)"),
)
# Names of the sensors in metadata, in lower case without separators. The first that matches counts: instruments and
# numbered satellites come before families.
_STATEMENTS: tuple[tuple[Sensor, str], ...] = (
    (HLS_L30, r"^hlsl30"),
    (HLS_S30, r"^hlss30"),
    (SENTINEL_2, r"sentinel2|^s2[abcd]?$|^msi$"),
    (LANDSAT_8, r"^landsat0?[89]|^oli|^lc0?[89]$"),
    (LANDSAT_7, r"^landsat0?7|^etm|^le0?7$"),
    (LANDSAT_5, r"^landsat0?[45]|^tm$|^lt0?[45]$"),
    (LANDSAT, r"landsat|^tirs|^mss$"),
    (PLANETSCOPE_8, r"superdove|^psbsd$|^planetscope8"),
    (PLANETSCOPE_4, r"^planetscope4"),
    (PLANETSCOPE, r"planetscope|^psb|^ps2|^dove|skysat"),
    (ENMAP, r"enmap"),
    (_PRISMA, r"prisma"),
    (_EMIT, r"^emit"),
    (MODIS, r"modis|^terra$|^aqua$"),
    (Sensor("viirs", title="VIIRS"), r"viirs|^noaa2|^suominpp"),
    (_AVIRIS, r"aviris"),
    (Sensor("sentinel-1", title="Sentinel-1"), r"sentinel1"),
    (Sensor("sentinel-3", title="Sentinel-3"), r"sentinel3|^olci$|^slstr$"),
    (Sensor("worldview", title="WorldView"), r"worldview|^wv0?\d$|geoeye|quickbird"),
    (Sensor("pleiades", title="Pleiades or SPOT"), r"pl.?iades|^phr|^spot"),
    (Sensor("rapideye", title="RapidEye"), r"rapideye"),
)
# TIFF tags that name the sensor, in GDAL's IMAGERY domain, ENVI headers, and HLS, Landsat and EnMAP products.
_TAGS = re.compile(
    r"satellite(?:_?id)?|spacecraft(?:_(?:id|name))?|platform|constellation|mission|sensor(?:[_ ](?:id|type))?|"
    r"sensing_instrument|instruments?",
    re.IGNORECASE,
)


def sensor_of_files(names: Iterable[str]) -> Sensor | None:
    """Return the first sensor that the name of a file or of a band indicates, or None."""
    for name in names:
        base = os.path.basename(name.rstrip("/"))
        for sensor, pattern in _FILE_NAMES:
            if re.match(pattern, base, re.IGNORECASE):
                return sensor
    return None


def sensor_of_statements(statements: Iterable[object]) -> Sensor | None:
    """Return the sensor that metadata state, or None if they state none.

    Args:
        statements: Names of a platform, a constellation or an instrument. If they name several sensors, as in
            harmonised products, the first one of the table above counts.
    """
    plain = [re.sub(r"[^a-z0-9]", "", str(statement).lower()) for statement in statements if statement]
    return next(
        (sensor for sensor, pattern in _STATEMENTS if any(re.search(pattern, text) for text in plain)),
        None,
    )


def sensor_of_tags(tags: Mapping[str, str]) -> Sensor | None:
    """Return the sensor that the tags of a file state, or None if they state none."""
    return sensor_of_statements(value for key, value in tags.items() if _TAGS.fullmatch(key))


def contradicts(stated: Sensor, own: Sensor) -> bool:
    """Return whether a statement names another sensor. Naming its family, such as Landsat, is no contradiction.

    Sentinel is not such a family, because its satellites carry different instruments.
    """
    family = stated.name.partition("-")[0]
    return stated.name != own.name and (family != own.name.partition("-")[0] or family == "sentinel")
