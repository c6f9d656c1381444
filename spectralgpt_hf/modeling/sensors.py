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
"""Which sensor took an image: read from what files and catalogues state, never assumed.

Band names mean other wavelengths on other sensors: B5 is the near infrared of Landsat 8 and the red edge of Sentinel-2.
"""

import os
import re
from collections.abc import Iterable, Mapping


SENTINEL_2 = "Sentinel-2"

# How each sensor's files are named, from the product specifications: USGS LSDS-1619 (Landsat Collection 2), LP DAAC HLS
# user guide 2.0, Planet imagery product specification, EnMAP EN-PCV-ICD-2009, PRISMA product specification, LP DAAC
# EMIT and MODIS user guides. HLS S30 is Sentinel-2 with its own band names.
_FILE_NAMES = {
    "Landsat": r"L[COTEM]0?[1-9]_L\w{3}_\d{6}_|L[COTEM][1-9]\d{13}",
    "HLS L30 (Landsat)": r"HLS\.L30\.",
    "PlanetScope": r"\d{8}_\d{6}_\w+_3[AB]_?(?:Analytic|Visual|basic|ortho|udm)",
    "EnMAP": r"ENMAP\d\d-",
    "PRISMA": r"PRS_L\d",
    "EMIT": r"EMIT_L\d",
    "MODIS": r"M[OYC]D\d\d\w*\.A\d{7}",
    "Sentinel-1": r"S1[ABC]_(?:IW|EW|SM|WV)_",
    "Sentinel-3": r"S3[AB]_(?:OL|SL)_",
}
# How metadata name them, in small letters without separators.
_STATEMENTS = {
    SENTINEL_2: r"sentinel2|^s2[abcd]?$|^msi$",
    "Landsat": r"landsat|^oli|^etm|^tirs|^tm$|^lc0?[89]$",
    "PlanetScope": r"planetscope|^psb|^ps2|^dove|skysat",
    "EnMAP": r"enmap",
    "PRISMA": r"prisma",
    "EMIT": r"^emit",
    "MODIS": r"modis|^terra$|^aqua$",
    "VIIRS": r"viirs|^noaa2|^suominpp",
    "AVIRIS": r"aviris",
    "Sentinel-1": r"sentinel1",
    "Sentinel-3": r"sentinel3|^olci$|^slstr$",
    "WorldView": r"worldview|^wv0?\d$|geoeye|quickbird",
    "Pleiades or SPOT": r"pl.?iades|^phr|^spot",
    "RapidEye": r"rapideye",
}
# Where TIFF tags say it: GDAL's IMAGERY domain, ENVI headers, and the tags of HLS, Landsat and EnMAP products.
_TAGS = re.compile(
    r"satellite(?:_?id)?|spacecraft(?:_(?:id|name))?|platform|constellation|mission|sensor(?:_id)?|sensor_type|"
    r"sensing_instrument|instruments?",
    re.IGNORECASE,
)


def sensor_of_files(names: Iterable[str]) -> str | None:
    """Return the first other sensor that a file's name gives away, or None: Sentinel-2, or not known."""
    for name in names:
        base = os.path.basename(name.rstrip("/"))
        for sensor, pattern in _FILE_NAMES.items():
            if re.match(pattern, base, re.IGNORECASE):
                return sensor
    return None


def sensor_of_statements(statements: Iterable[object]) -> str | None:
    """Return the other sensor that metadata state, or None: Sentinel-2, or not known.

    Args:
        statements: Names of a platform, a constellation or an instrument. One of Sentinel-2 settles it: harmonised
            products name several.
    """
    plain = [re.sub(r"[^a-z0-9]", "", str(statement).lower()) for statement in statements if statement]
    found = [sensor for sensor, pattern in _STATEMENTS.items() if any(re.search(pattern, text) for text in plain)]
    return None if not found or SENTINEL_2 in found else found[0]


def sensor_of_tags(tags: Mapping[str, str]) -> str | None:
    """Return the other sensor that the tags of a file state, or None: Sentinel-2, or not known."""
    return sensor_of_statements(value for key, value in tags.items() if _TAGS.fullmatch(key))


def refuse_sensor(sensor: str | None, name: str) -> None:
    """Refuse an image of another sensor.

    Raises:
        ValueError: If `sensor` is not None. The message says what to pass.
    """
    if sensor is not None:
        raise ValueError(
            f"{name}: an image of {sensor}, whose bands have other wavelengths than those of the same name on "
            "Sentinel-2. To use it all the same, put its bands in one file and pass `band_names`, the Sentinel-2 band "
            "that each of them is to stand for."
        )
